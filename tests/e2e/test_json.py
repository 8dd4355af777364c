"""The JSON that the contract's worked shapes pin down (camelCase, 64-bit numbers as strings)."""

import base64
import gzip
import io
import tarfile

from tests.e2e.server import Server


def archive(text: str) -> str:
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        about = tarfile.TarInfo("handler.py")
        about.size = len(text)
        tar.addfile(about, io.BytesIO(text.encode()))
    return base64.b64encode(out.getvalue()).decode()


class TestWorkedShapes:
    def test_create_answers_applied_tier_and_limits(self, server: Server) -> None:
        body = {"name": "shapes", "resourceTier": "RESOURCE_TIER_SMALL"}
        answer = server.http("POST", f"/v1/ignite/app/{server.org}", body)
        assert answer.status == 200, answer.body
        assert answer.json()["appId"] == f"{server.org}/shapes"
        assert answer.json()["deploymentState"] == "DEPLOYMENT_STATE_CREATED"
        assert answer.json()["appliedTier"] == "RESOURCE_TIER_SMALL"
        limits = answer.json()["appliedLimits"]
        assert (limits["memoryMb"], limits["cpuMillicores"]) == (256, 250)

    def test_draft_has_hash_kind_and_time_as_string(self, server: Server) -> None:
        server.http("POST", f"/v1/ignite/app/{server.org}", {"name": "drafted"})
        source = {
            "runtime": {"python": {"version": "3.11"}},
            "archive": archive("def handler(p, c):\n    return p\n"),
        }
        path = f"/v1/ignite/app/{server.org}/drafted/draft"
        draft = server.http("POST", path, {"code": {"compile": source}}).json()["draft"]
        assert draft["status"] == "VERSION_STATUS_DRAFT"
        assert draft["codeKind"] == "CODE_KIND_SDK"
        assert int(draft["codeHash"], 16) >= 0
        assert isinstance(draft["createdAtMs"], str)
        assert int(draft["createdAtMs"]) > 1_600_000_000_000
        assert server.http("GET", path).json()["draft"]["codeHash"] == draft["codeHash"]


class TestMapping:
    def test_both_spellings_of_a_field_are_taken(self, server: Server) -> None:
        for number, key in enumerate(("maxConcurrency", "max_concurrency")):
            body = {"name": f"spelled-{number}", key: 3}
            assert server.http("POST", f"/v1/ignite/app/{server.org}", body).status == 200
            path = f"/v1/ignite/app/{server.org}/spelled-{number}"
            assert server.http("GET", path).json()["app"]["maxConcurrency"] == 3

    def test_query_takes_both_spellings_of_a_field(self, server: Server, hello: str) -> None:
        assert hello
        for path in ("?limit=1", "?limit=1&cursor="):
            answer = server.http("GET", f"/v1/ignite/app/{server.org}{path}")
            assert len(answer.json()["apps"]) == 1
            assert answer.json().get("nextCursor", "") != "" or len(answer.json()["apps"]) == 1

    def test_patch_with_a_mask_clears_a_map(self, server: Server) -> None:
        base = f"/v1/ignite/app/{server.org}"
        server.http("POST", base, {"name": "masked", "env": {"A": "1"}})
        body = {"env": {}, "updateMask": "env"}
        answer = server.http("PATCH", f"{base}/masked/config", body)
        assert (answer.status, answer.json()["app"].get("env", {})) == (200, {})

    def test_field_of_a_newer_client_is_ignored(self, server: Server) -> None:
        body = {"name": "newer", "colour": {"deep": [1]}}
        assert server.http("POST", f"/v1/ignite/app/{server.org}", body).status == 200

    def test_broken_json_is_400(self, server: Server) -> None:
        headers = {"content-type": "application/json"}
        path = f"/v1/ignite/app/{server.org}"
        assert server.http("POST", path, b"{", headers=headers).status == 400

    def test_empty_lists_are_left_out_and_delete_answers(self, server: Server) -> None:
        base = f"/v1/ignite/app/{server.org}"
        server.http("POST", base, {"name": "doomed"})
        assert server.http("GET", f"{base}/doomed/versions").json() == {}
        assert server.http("DELETE", f"{base}/doomed").status == 200
        assert server.http("GET", f"{base}/doomed").status == 404

    def test_code_is_answered_at_both_paths(self, server: Server, hello: str) -> None:
        base = f"/v1/ignite/app/{server.org}/{hello}/code"
        newest = server.http("GET", base).json()
        first = server.http("GET", f"{base}/versions/1").json()
        assert base64.b64decode(newest["code"]).startswith(b"\x1f\x8b")
        assert first["code"] == newest["code"]
