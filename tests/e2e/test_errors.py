"""What goes wrong in the hands of a user: named, classed, and never with our insides."""

import base64
import json
import time

import grpc
import pytest
from tests.e2e.server import Server

from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

ERROR_KEYS = {"code", "message", "details"}


class TestTokens:
    @pytest.mark.parametrize("token", [None, "nonsense", "e30.e30.e30"])
    def test_json_api_refuses_with_401(self, server: Server, token: str | None) -> None:
        answer = server.http("GET", f"/v1/ignite/app/{server.org}", token=token)
        assert answer.status == 401
        assert answer.json()["code"] == 16

    @pytest.mark.parametrize("token", [None, "nonsense", "e30.e30.e30"])
    def test_app_refuses_with_401(self, server: Server, hello: str, token: str | None) -> None:
        answer = server.http("POST", "/", b"x", host=server.host_of(hello), token=token)
        assert answer.status == 401

    def test_grpc_refuses(self, server: Server) -> None:
        request = pb.ListAppsRequest(organization_name=server.org)
        with server.compute() as compute, pytest.raises(grpc.RpcError) as caught:
            compute.ListApps(request, timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    def test_other_organisation_is_denied(self, server: Server) -> None:
        answer = server.http("GET", "/v1/ignite/app/somebody-else")
        assert (answer.status, answer.json()["code"]) == (403, 7)

    def test_command_line_exits_with_3(self, server: Server) -> None:
        done = server.cli("app", "list", "--token", "nonsense")
        assert (done.returncode, done.stderr.count("\n")) == (3, 1)

    def test_health_needs_no_token(self, server: Server) -> None:
        answer = server.http("GET", "/v1/ignite/health", token=None)
        assert (answer.status, answer.json()["status"]) == (200, "ok")


class TestNames:
    def test_unknown_host_is_404(self, server: Server) -> None:
        answer = server.http("GET", "/", host=server.host_of("no-such-app"))
        assert answer.status == 404

    def test_unknown_path_of_the_api_is_404_in_our_form(self, server: Server) -> None:
        answer = server.http("GET", "/v1/ignite/nothing/here")
        assert answer.status == 404
        assert set(answer.json()) == ERROR_KEYS

    def test_unknown_app_is_404(self, server: Server) -> None:
        answer = server.http("GET", f"/v1/ignite/app/{server.org}/no-such-app")
        assert (answer.status, answer.json()["code"]) == (404, 5)

    def test_same_name_twice_is_409(self, server: Server, hello: str) -> None:
        answer = server.http("POST", f"/v1/ignite/app/{server.org}", {"name": hello})
        assert (answer.status, answer.json()["code"]) == (409, 6)

    @pytest.mark.parametrize("name", ["", "UPPER", "-a", "a" * 64, "a/b"])
    def test_bad_name_is_400_and_names_the_field(self, server: Server, name: str) -> None:
        answer = server.http("POST", f"/v1/ignite/app/{server.org}", {"name": name})
        assert (answer.status, answer.json()["code"]) == (400, 3)
        assert "name" in answer.json()["message"]


class TestCode:
    def save(self, server: Server, archive: bytes) -> tuple[grpc.StatusCode, str]:
        """Save an archive of an app of its own; return how the first refusal sounds."""
        name = f"code-{time.monotonic_ns()}"
        source = common.CompileSource(
            runtime=common.Runtime(python=common.PythonRuntime()), archive=archive
        )
        ref = {"organization_name": server.org, "app_name": name}
        with server.compute() as compute:
            more = {"metadata": server.metadata, "timeout": 30}
            created = pb.CreateAppRequest(organization_name=server.org, name=name)
            compute.CreateApp(created, **more)  # type: ignore[arg-type]
            with pytest.raises(grpc.RpcError) as caught:
                compute.SaveDraft(
                    pb.SaveDraftRequest(**ref, code=common.CodeSource(compile=source)),
                    **more,  # type: ignore[arg-type]
                )
        return caught.value.code(), caught.value.details() or ""

    @pytest.mark.parametrize("archive", [b"not an archive", b"PK\x03\x04junk", b"\x1f\x8bjunk"])
    def test_broken_archive_is_refused_at_save(self, server: Server, archive: bytes) -> None:
        code, text = self.save(server, archive)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "/" not in text.replace("tar.gz", "").replace("ZIP/", "")

    def test_handler_that_raises_answers_500_with_its_trace(self, server: Server) -> None:
        server.deploy("raises", {"handler.py": "def handler(p, c):\n    raise ValueError('no')\n"})
        answer = server.http("POST", "/", b"x", host=server.host_of("raises"))
        assert answer.status == 500
        assert {"error", "type", "traceback"} <= set(answer.json())
        assert answer.json()["type"] == "ValueError"
        done = server.cli("invoke", "raises")
        assert done.returncode == 1
        assert json.loads(done.stdout)["type"] == "ValueError"
        assert done.stderr.startswith("Error: ")

    def test_handler_that_never_starts_fails_its_version_and_the_old_serves_on(
        self, server: Server, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        server.deploy("steady", {"handler.py": "def handler(p, c):\n    return b'good'\n"})
        folder = tmp_path_factory.mktemp("bad")
        (folder / "handler.py").write_text(
            "def handler(p, c):\n    return b''\n\n\nraise RuntimeError('never starts')\n"
        )
        done = server.cli("app", "deploy", "steady", "--code", str(folder))
        assert done.returncode != 0
        assert "never starts" in done.stderr
        assert "Traceback" not in done.stderr.splitlines()[-1]
        assert server.invoke("steady") == "good"

    def test_dependency_that_does_not_exist_fails_the_compile_with_its_log(
        self, server: Server, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("dependency")
        (folder / "handler.py").write_text("def handler(p, c):\n    return b''\n")
        (folder / "requirements.txt").write_text("ignite-no-such-package-anywhere==9.9\n")
        done = server.cli("app", "deploy", "dependency", "--code", str(folder))
        assert done.returncode != 0
        assert "ignite-no-such-package-anywhere" in done.stderr


class TestStates:
    def test_publish_without_draft_is_a_failed_precondition(self, server: Server) -> None:
        server.http("POST", f"/v1/ignite/app/{server.org}", {"name": "empty"})
        answer = server.http("POST", f"/v1/ignite/app/{server.org}/empty/draft/publish", {})
        assert (answer.status, answer.json()["code"]) == (400, 9)

    def test_method_without_its_engine_is_unimplemented(self, server: Server, hello: str) -> None:
        body = {"body": base64.b64encode(b"x").decode()}
        path = f"/v1/ignite/app/{server.org}/{hello}/invoke-async"
        answer = server.http("POST", path, body)
        assert answer.status in (200, 501)
        assert answer.status == 200 or answer.json()["code"] == 12
