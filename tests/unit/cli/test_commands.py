"""The commands against a server of the contract: what they send and what they print."""

import io
import sys
from pathlib import Path

import pytest
import yaml
from tests.fakes.ignite_server import FakeServer

from ignite.v1 import ignite_common_pb2 as common

from .conftest import Cli


def handler(home: Path) -> str:
    path = home / "handler.py"
    path.write_text("def handler(payload, ctx):\n    return payload\n")
    return str(path)


class TestApp:
    def test_create_prints_what_was_applied(self, cli: Cli) -> None:
        result = cli("app", "create", "hello", "--description", "says hello")
        assert result.code == 0
        assert "acme/hello" in result.out
        assert "256 MB, 250 m CPU" in result.out

    def test_create_warns_that_runtime_is_only_noted(self, cli: Cli, server: FakeServer) -> None:
        result = cli("app", "create", "hello", "--runtime", "rust", "--rust-target", "wasm")
        assert result.err.startswith("Warning: --runtime is only noted")
        (request,) = server.compute.called("CreateApp")
        assert request.runtime.rust.target == common.RUST_COMPILATION_TARGET_WASM

    def test_create_rust_without_target_is_refused(self, cli: Cli) -> None:
        assert cli("app", "create", "hello", "--runtime", "rust").code == 2

    def test_other_organisation_by_prefix(self, cli: Cli, server: FakeServer) -> None:
        cli("app", "create", "beta:hello")
        assert ("beta", "hello") in server.compute.apps

    def test_aliases_are_the_same_command(self, cli: Cli) -> None:
        cli("fn", "create", "hello")
        assert "hello" in cli("function", "list").out

    def test_list_follows_pages(self, cli: Cli) -> None:
        for name in ("a", "b", "c"):
            cli("app", "create", name)
        assert [app["name"] for app in cli("app", "list", "-o", "json").json()["apps"]] == [
            "a",
            "b",
            "c",
        ]

    def test_list_with_limit_is_one_page_and_its_cursor(self, cli: Cli) -> None:
        for name in ("a", "b", "c"):
            cli("app", "create", name)
        page = cli("app", "list", "--limit", "1", "-o", "json").json()
        assert ([app["name"] for app in page["apps"]], page["nextCursor"]) == (["a"], "1")

    def test_empty_list_is_an_empty_list(self, cli: Cli) -> None:
        assert cli("app", "list", "-o", "json").json() == {"apps": []}
        assert cli("app", "list").out.split()[0] == "NAME"

    def test_update_names_only_what_differs(self, cli: Cli, server: FakeServer) -> None:
        cli("app", "create", "hello", "--description", "one", "--env", "A=1")
        cli("app", "update", "hello", "--description", "one", "--clear-env")
        (request,) = server.compute.called("UpdateAppConfig")
        assert list(request.update_mask.paths) == ["env"]
        assert dict(request.env) == {}

    def test_limit_0_is_the_tiers_again(self, cli: Cli, server: FakeServer) -> None:
        cli("app", "create", "hello", "--memory", "300", "--cpu", "100")
        cli("app", "update", "hello", "--memory", "0")
        (request,) = server.compute.called("UpdateAppConfig")
        assert not request.limits.HasField("memory_mb")
        assert request.limits.cpu_millicores == 100

    def test_delete_and_state_of_a_missing_app(self, cli: Cli) -> None:
        cli("app", "create", "hello")
        assert cli("app", "delete", "hello", "--yes").code == 0
        result = cli("app", "state", "hello")
        assert (result.code, result.err) == (5, "Error: no such app (AppNotFound)\n")

    def test_state_lists_replicas(self, cli: Cli) -> None:
        cli("app", "create", "hello")
        assert "r-1" in cli("app", "state", "hello").out


class TestOutput:
    def test_json_is_the_apis_camel_case(self, cli: Cli) -> None:
        cli("app", "create", "hello", "--max-replicas", "3")
        app = cli("app", "get", "hello", "-o", "json").json()
        assert app["organizationName"] == "acme"
        assert app["scaling"] == {"maxReplicas": 3}

    def test_yaml_holds_the_same(self, cli: Cli) -> None:
        cli("app", "create", "hello")
        as_yaml = yaml.safe_load(cli("-o", "yaml", "app", "get", "hello").out)
        assert as_yaml == cli("app", "get", "hello", "-o", "json").json()

    def test_wide_has_more_columns(self, cli: Cli) -> None:
        cli("app", "create", "hello")
        assert "DESCRIPTION" not in cli("app", "list").out
        assert "DESCRIPTION" in cli("app", "list", "-o", "wide").out


class TestDraftAndVersion:
    def test_draft_by_steps(self, cli: Cli, server: FakeServer, home: Path) -> None:
        cli("app", "create", "hello")
        assert cli("draft", "info", "hello").json() == {"status": "no draft"}
        assert cli("draft", "save", "hello", "--code", handler(home)).code == 0
        assert "draft" in cli("draft", "status", "hello").out
        followed = cli("draft", "compile", "hello", "--follow")
        assert "resolving" in followed.err
        assert cli("draft", "compile-logs", "hello").out == "resolving\ninstalling\n"
        assert cli("draft", "test", "hello", "--payload", "x").out == "ran x"
        assert "1" in cli("draft", "publish", "hello").out
        assert "python" in cli("version", "list", "hello").out
        assert server.compute.called("SaveDraft")[0].code.compile.source_code.startswith(b"def")

    def test_publish_without_draft_says_why(self, cli: Cli) -> None:
        cli("app", "create", "hello")
        result = cli("draft", "publish", "hello")
        assert (result.code, result.err) == (1, "Error: no draft is saved (NoDraft)\n")

    def test_save_without_source_or_with_two_is_refused(self, cli: Cli, home: Path) -> None:
        assert cli("draft", "save", "hello").code == 2
        result = cli("draft", "save", "hello", "-c", handler(home), "--git-url", "https://x.y")
        assert "--code and --git-url exclude one another" in result.err

    def test_dependency_is_ignored_with_a_warning(self, cli: Cli, home: Path) -> None:
        cli("app", "create", "hello")
        result = cli("draft", "save", "hello", "-c", handler(home), "-d", "numpy")
        assert (result.code, result.err.startswith("Warning: --dependency")) == (0, True)

    def test_failed_run_prints_result_and_fails(
        self, cli: Cli, server: FakeServer, home: Path
    ) -> None:
        cli("app", "create", "hello")
        cli("draft", "save", "hello", "-c", handler(home))
        server.behaviour.start_error = "boom"
        result = cli("draft", "test", "hello", "-p", "x")
        assert (result.code, result.out) == (1, "ran x")
        assert result.err == "Error: HTTP 200: boom (user_code)\n"

    def test_code_goes_to_a_file_here_whatever_the_server_calls_it(
        self, cli: Cli, home: Path
    ) -> None:
        cli("app", "create", "hello")
        cli("draft", "save", "hello", "-c", handler(home))
        (home / "work").mkdir()
        assert cli("version", "code", "hello", "--version", "0").code == 0
        assert (home / "hello-1.tar.gz").read_bytes().startswith(b"def handler")
        assert cli("version", "code", "hello").code == 2
        assert cli("version", "code", "hello", "--force").code == 0

    def test_rollback_and_get(self, cli: Cli, server: FakeServer, home: Path) -> None:
        cli("app", "deploy", "hello", "-c", handler(home))
        (home / "handler.py").write_text("def handler(p, c):\n    return b'2'\n")
        cli("app", "deploy", "hello", "-c", str(home / "handler.py"))
        assert cli("version", "rollback", "hello", "1").code == 0
        assert server.compute.apps[("acme", "hello")].meta.active_version == 1
        assert cli("version", "get", "hello", "2", "-o", "json").json()["version"] == 2
        assert cli("version", "get", "hello", "9").code == 5
        assert cli("version", "test", "hello", "2", "-p", "y").out == "ran y"


class TestInvoke:
    def test_body_goes_to_stdout(self, cli: Cli) -> None:
        cli("app", "create", "hello")
        result = cli("invoke", "hello", "--payload", "{}")
        assert (result.code, result.out, result.err) == (0, "hello", "")

    def test_request_is_sent_as_given(
        self, cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cli("app", "create", "hello")
        stdin = io.TextIOWrapper(io.BytesIO(b"\x00\xff"))
        monkeypatch.setattr(sys, "stdin", stdin)
        arguments = ["--payload-file", "-", "--method", "put", "--path", "/a", "--query", "b=1"]
        cli("invoke", "hello", *arguments, "-H", "X-One: 1", "-H", "X-Two: a: b", "-H", "x-one: 2")
        (request,) = server.compute.called("Invoke")
        assert request.body == b"\x00\xff"
        assert request.http.method == common.HTTP_METHOD_PUT
        assert (request.http.path, request.http.query) == ("/a", "b=1")
        assert dict(request.http.headers) == {"X-One": "1", "X-Two": "a: b"}
        assert [(h.name, h.value) for h in request.http.header_list] == [("x-one", "2")]

    def test_failing_app_keeps_its_body_and_fails(self, cli: Cli, server: FakeServer) -> None:
        cli("app", "create", "hello")
        server.behaviour.app_status = 500
        result = cli("invoke", "hello")
        assert (result.code, result.out) == (1, "hello")
        assert result.err == "Error: acme/hello answered HTTP 500 (exec_1) (AppFailed)\n"


class TestSecret:
    def test_slots_come_and_go(self, cli: Cli) -> None:
        arguments = ["--type", "registry", "--username", "bot", "--password", "pw"]
        assert cli("secret", "create", "dockerhub", *arguments).code == 0
        assert cli("secret", "list", "-o", "json").json()["secrets"][0]["type"] == (
            "registry_secret"
        )
        assert "pw" not in cli("secret", "list").out
        assert "pw" in cli("secret", "get", "dockerhub").out
        assert cli("secret", "delete", "dockerhub").code == 0
        assert cli("secret", "get", "dockerhub").code == 5

    def test_token_of_git_is_its_own_flag(self, cli: Cli, server: FakeServer) -> None:
        assert cli("secret", "create", "gh", "--type", "git", "--token", "pat").code == 0
        assert server.secrets.slots["gh"].value.git_secret.token == "pat"

    def test_value_can_come_from_stdin(
        self, cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("pat\n"))
        cli("secret", "create", "gh", "--type", "git", "--token", "-")
        assert server.secrets.slots["gh"].value.git_secret.token == "pat"

    def test_flags_of_the_other_type_are_refused(self, cli: Cli) -> None:
        arguments = ["--type", "git", "--token", "x", "--password", "y"]
        assert cli("secret", "create", "gh", *arguments).code == 2
