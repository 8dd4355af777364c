"""A generic gRPC client with nothing but reflection."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.server import Server

GRPCURL = shutil.which("grpcurl", path=str(Path(sys.executable).parent)) or shutil.which("grpcurl")

pytestmark = pytest.mark.skipif(GRPCURL is None, reason="grpcurl is missing (make tools)")


def grpcurl(server: Server, *arguments: str, data: str = "") -> str:
    command = [str(GRPCURL), "-plaintext", "-H", f"authorization: Bearer {server.token}"]
    if data:
        command += ["-d", data]
    done = subprocess.run(
        [*command, server.connection["grpc"], *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects that stand one after another in `text`."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_services_are_listed_by_reflection(server: Server) -> None:
    listed = grpcurl(server, "list").split()
    for service in ("ComputeService", "SecretService", "BuildService", "ModelService"):
        assert f"dodil.ignite.v1.{service}" in listed
    assert "dodil.ignite.v1.AdminService" not in listed


def test_app_is_invoked(server: Server, hello: str) -> None:
    data = json.dumps({"organization_name": server.org, "app_name": hello, "body": "YWRh"})
    answer = grpcurl(server, "dodil.ignite.v1.ComputeService/Invoke", data=data)
    head, chunk, trailer = objects(answer)
    assert head["head"]["status_code"] == 200
    assert b'"hello": "ada"' in base64.b64decode(chunk["chunk"])
    assert "trailer" in trailer
