"""Where address, token and organisation come from, in which order, and what goes wrong there."""

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from tests.fakes.ignite_server import REQUEST_ID, TOKEN, FakeServer

from ignite.cli import endpoints
from ignite.cli.failures import Failure

from .conftest import Cli


def jwt(**claims: object) -> str:
    """A token with these claims that the fake server takes."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.{TOKEN}"


def connect(folder: Path, **values: str) -> None:
    """Leave a connection file as a running server does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "connection.json").write_text(json.dumps(values))


class TokenHandler(BaseHTTPRequestHandler):
    """Answers the token endpoint; its server's `secret` is the one that is right."""

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        right = form["client_secret"] == ["right"] and self.path.endswith("/token")
        token = jwt(organization={"acme": {"id": "o-1"}}, exp=time.time() + 900)
        body = json.dumps({"access_token": token, "expires_in": 900}).encode()
        self.send_response(200 if right else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def token_endpoint() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), TokenHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestResolution:
    def test_local_server_needs_no_configuration(
        self, bare: Cli, server: FakeServer, home: Path
    ) -> None:
        connect(home / ".ignite", grpc=server.address, token=TOKEN, org="acme")
        assert bare("app", "create", "hello").code == 0
        assert ("acme", "hello") in server.compute.apps

    def test_data_dir_of_the_environment_wins_over_the_one_here(
        self, bare: Cli, server: FakeServer, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(home / ".ignite", grpc="127.0.0.1:1", token=TOKEN, org="acme")
        connect(home / "other", grpc=server.address, token=TOKEN, org="beta")
        monkeypatch.setenv("IGNITE_DATA_DIR", str(home / "other"))
        assert bare("app", "create", "hello").code == 0
        assert ("beta", "hello") in server.compute.apps

    def test_flag_wins_over_variable_over_file_over_local_server(
        self, bare: Cli, server: FakeServer, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect(home / ".ignite", grpc=server.address, token=TOKEN, org="local")
        bare("app", "create", "hello")
        bare("config", "set", "org_id", "file")
        bare("app", "create", "hello")
        monkeypatch.setenv("IGNITE_ORG_ID", "variable")
        bare("app", "create", "hello")
        bare("app", "create", "hello", "--org", "flag")
        assert [org for org, _ in server.compute.apps] == ["local", "file", "variable", "flag"]

    def test_token_variables_in_order(
        self, bare: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("IGNITE_GRPC", server.address)
        monkeypatch.setenv("IGNITE_TOKEN", "bad")
        assert bare("app", "list", "--org", "acme").code == 3
        monkeypatch.setenv("DODIL_TOKEN", TOKEN)
        assert bare("app", "list", "--org", "acme").code == 0

    def test_organisation_is_the_tokens(
        self, bare: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("IGNITE_API_ENDPOINT", server.address)
        token = jwt(organization={"gamma": {"id": "o-3"}})
        bare("app", "create", "one", "--token", token)
        bare("app", "create", "two", "--token", token, "--org", "o-3")
        assert list(server.compute.apps) == [("gamma", "one"), ("gamma", "two")]

    def test_config_file_of_flag_and_folder_and_global_keys(
        self, bare: Cli, server: FakeServer, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (home / "my.yaml").write_text(
            f"global:\n  api_endpoint: {server.address}\n  token: {TOKEN}\nignite: {{org_id: x}}\n"
        )
        assert bare("app", "list", "--config", str(home / "my.yaml")).code == 0
        monkeypatch.setenv("IGNITE_CONFIG_DIR", str(home / "conf"))
        assert bare("config", "set", "org_id", "acme").code == 0
        assert (home / "conf" / "config.yaml").stat().st_mode & 0o777 == 0o600

    def test_no_server_says_what_to_do(self, bare: Cli) -> None:
        result = bare("app", "list")
        assert result.code == 2
        assert "make run" in result.err


class TestTokens:
    def test_ended_token_of_the_local_server_is_exchanged(
        self, bare: Cli, server: FakeServer, home: Path, token_endpoint: str
    ) -> None:
        connect(
            home / ".ignite",
            grpc=server.address,
            http=token_endpoint,
            org="acme",
            token="e30." + jwt(exp=1).split(".")[1] + ".ended",
            client_id="dev",
            client_secret="right",
        )
        assert bare("app", "list").code == 0
        assert bare("token").out.strip().endswith(TOKEN)

    def test_login_keeps_what_later_commands_need(
        self, bare: Cli, server: FakeServer, token_endpoint: str
    ) -> None:
        arguments = ["--http-endpoint", token_endpoint, "--api-endpoint", server.address]
        assert bare("login", "dev", "right", *arguments).code == 0
        assert bare("app", "create", "hello").code == 0
        assert ("acme", "hello") in server.compute.apps
        view = bare("config", "view").out
        assert "right" not in view
        assert server.address in view

    def test_login_with_wrong_secret_keeps_nothing(self, bare: Cli, token_endpoint: str) -> None:
        result = bare("login", "dev", "wrong", "--http-endpoint", token_endpoint)
        assert (result.code, result.err.count("\n")) == (3, 1)
        assert "service_account_id" not in bare("config", "view").out

    def test_no_token_is_said_without_a_call(self, bare: Cli, server: FakeServer) -> None:
        result = bare("app", "list", "--api-endpoint", server.address)
        assert (result.code, "ignite login" in result.err) == (3, True)


class TestFailures:
    def test_refusal_is_one_line_with_reason_and_code(self, cli: Cli) -> None:
        result = cli("app", "get", "nope")
        assert (result.code, result.err) == (5, "Error: no such app (AppNotFound)\n")

    def test_debug_adds_the_request_id(self, cli: Cli) -> None:
        assert cli("app", "get", "nope", "--debug").err.endswith(f"request id: {REQUEST_ID}\n")

    def test_unreachable_server_is_unavailable(self, bare: Cli) -> None:
        arguments = ["--api-endpoint", "127.0.0.1:1", "--token", "x", "--org", "acme"]
        result = bare("app", "list", *arguments)
        assert result.code == 9
        assert result.err.startswith("Error: cannot reach the server at 127.0.0.1:1")
        assert result.err.count("\n") == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            ["app", "create"],
            ["app", "create", "x", "--tier", "huge"],
            ["nothing"],
            ["app", "list", "--timeout", "soon"],
            ["app", "create", "x", "--env", "novalue"],
            ["app", "deploy", "x", "--code", "/does/not/exist"],
            ["invoke", "x", "-p", "a", "--payload-file", "b"],
            ["config", "set", "colour", "blue"],
        ],
    )
    def test_wrong_use_is_one_line_and_2(self, cli: Cli, arguments: list[str]) -> None:
        result = cli(*arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("Error: ")
        assert result.err.count("\n") == 1

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_broken_connection_file_is_named(self, bare: Cli, home: Path, text: str) -> None:
        (home / ".ignite").mkdir()
        (home / ".ignite" / "connection.json").write_text(text)
        result = bare("app", "list")
        assert (result.code, "connection.json" in result.err) == (1, True)

    def test_broken_configuration_is_named(self, bare: Cli, home: Path) -> None:
        (home / "bad.yaml").write_text("a: [")
        result = bare("config", "view", "--config", str(home / "bad.yaml"))
        assert (result.code, "is not YAML" in result.err) == (1, True)


class TestEndpoints:
    @pytest.mark.parametrize(
        ("text", "target", "secure"),
        [
            ("127.0.0.1:50051", "127.0.0.1:50051", False),
            ("[::1]:50051", "[::1]:50051", False),
            ("localhost:50051", "localhost:50051", False),
            ("https://localhost:50051", "localhost:50051", True),
            ("rpc.example.com:443", "rpc.example.com:443", True),
            ("https://rpc.example.com", "rpc.example.com:443", True),
            ("unix:/run/x.sock", "unix:/run/x.sock", False),
        ],
    )
    def test_loopback_is_plain_and_all_else_tls(self, text: str, target: str, secure: bool) -> None:
        found = endpoints.parse(text, plaintext=False)
        assert (found.target, found.secure) == (target, secure)

    def test_debug_turns_tls_off(self) -> None:
        assert not endpoints.parse("rpc.example.com:80", plaintext=True).secure

    @pytest.mark.parametrize(
        "text", ["http://rpc.example.com", "ftp://x", "", "a b:x", "host:99999", "https://h/path"]
    )
    def test_unsafe_or_senseless_addresses_are_refused(self, text: str) -> None:
        with pytest.raises(Failure):
            endpoints.parse(text, plaintext=False)


class TestClientOnly:
    def test_client_imports_no_server_code(self) -> None:
        script = (
            "import sys; from ignite.cli.root import CLIENT_COMMANDS, root\n"
            "import click\n"
            "ctx = click.Context(root)\n"
            "for name in CLIENT_COMMANDS: root.get_command(ctx, name)\n"
            "print(sorted({m.split('.')[1] for m in sys.modules if m.startswith('ignite.')}))\n"
            "print([m for m in ('pydantic', 'sqlalchemy', 'cryptography') if m in sys.modules])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.splitlines() == ["['cli', 'v1']", "[]"]

    def test_help_lists_every_command(self, bare: Cli) -> None:
        result = bare("--help")
        assert result.code == 0
        for name in ("app", "draft", "version", "invoke", "secret", "serve", "doctor"):
            assert f"\n  {name} " in result.out
