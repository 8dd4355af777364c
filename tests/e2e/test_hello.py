"""The four ways to call an app."""

import base64

from tests.e2e.server import Server

from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb


class TestFourWays:
    def test_by_its_own_address(self, server: Server, hello: str) -> None:
        answer = server.http("POST", "/", b"ada", host=server.host_of(hello))
        assert answer.status == 200, answer
        assert answer.json()["hello"] == "ada"
        assert answer.headers["content-type"].startswith("application/json")

    def test_by_grpc_as_head_chunks_and_trailer(self, server: Server, hello: str) -> None:
        request = pb.InvokeRequest(organization_name=server.org, app_name=hello, body=b"ada")
        with server.compute() as compute:
            frames = list(compute.Invoke(request, metadata=server.metadata, timeout=60))
        assert [frame.WhichOneof("frame") for frame in frames] == ["head", "chunk", "trailer"]
        head, chunk, trailer = frames[0].head, frames[1].chunk, frames[2].trailer
        assert head.status_code == 200
        assert head.execution_id.startswith("exec_")
        assert b'"ada"' in chunk
        assert trailer.total_body_bytes == len(chunk)

    def test_by_http_with_id_and_trailers(self, server: Server, hello: str) -> None:
        body = {"http": {"method": "HTTP_METHOD_POST"}, "body": base64.b64encode(b"ada").decode()}
        path = f"/v1/ignite/app/{server.org}/{hello}/invoke"
        answer = server.http("POST", path, body, headers={"te": "trailers"})
        assert (answer.status, answer.json()["hello"]) == (200, "ada")
        assert answer.headers["x-ignite-execution-id"].startswith("exec_")
        assert int(answer.trailers["total_body_bytes"]) == len(answer.body)
        assert int(answer.trailers["duration_ms"]) >= 0

    def test_by_the_command_line(self, server: Server, hello: str) -> None:
        done = server.cli("invoke", hello, "--payload", "ada")
        assert (done.returncode, done.stderr) == (0, "")
        assert '"ada"' in done.stdout


class TestWhatTheAppSees:
    def test_headers_of_the_platform_cannot_be_forged(self, server: Server, hello: str) -> None:
        forged = {"x-ignite-function-id": "evil/app", "x-organization-name": "evil"}
        answer = server.http("POST", "/", b"x", host=server.host_of(hello), headers=forged)
        assert answer.json()["app"] == f"{server.org}/{hello}"


class TestVersions:
    def test_redeploy_serves_the_new_code_and_rollback_the_old(self, server: Server) -> None:
        name = "versions"
        server.deploy(name, {"handler.py": "def handler(p, c):\n    return b'one'\n"})
        server.deploy(name, {"handler.py": "def handler(p, c):\n    return b'two'\n"})
        assert server.invoke(name) == "two"
        assert server.cli("version", "rollback", name, "1").returncode == 0
        with server.compute() as compute:
            request = pb.GetAppStateRequest(organization_name=server.org, app_name=name)
            for _ in range(600):
                state = compute.GetAppState(request, metadata=server.metadata, timeout=10)
                if state.active_version == 1:
                    break
        assert server.invoke(name) == "one"
        listed = server.cli("version", "list", name, "-o", "json").stdout
        assert '"VERSION_STATUS_SUPERSEDED"' in listed

    def test_unchanged_code_stays_the_same_version(self, server: Server, hello: str) -> None:
        with server.compute() as compute:
            request = pb.GetAppRequest(organization_name=server.org, app_name=hello)
            before = compute.GetApp(request, metadata=server.metadata, timeout=10).app
            code = pb.GetAppCodeRequest(organization_name=server.org, app_name=hello)
            archive = compute.GetAppCode(code, metadata=server.metadata, timeout=10).code
            source = common.CompileSource(
                runtime=common.Runtime(python=common.PythonRuntime()), archive=archive
            )
            draft = compute.SaveDraft(
                pb.SaveDraftRequest(
                    organization_name=server.org,
                    app_name=hello,
                    code=common.CodeSource(compile=source),
                ),
                metadata=server.metadata,
                timeout=10,
            ).draft
        assert draft.code_hash == before.code_hash
