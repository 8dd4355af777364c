"""docs/status.md is true: what it calls unbuilt answers UNIMPLEMENTED, and nothing else does."""

import re
from pathlib import Path

import grpc
import pytest
from _pytest.mark import ParameterSet
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tests.e2e.server import ROOT, Server

import ignite.v1
from ignite.v1 import (
    ignite_admin_pb2,
    ignite_build_pb2,
    ignite_compute_pb2,
    ignite_model_pb2,
    ignite_secret_pb2,
)

LOADED = (
    ignite_admin_pb2,
    ignite_build_pb2,
    ignite_compute_pb2,
    ignite_model_pb2,
    ignite_secret_pb2,
)
PACKAGE = "dodil.ignite.v1"


def unbuilt() -> set[tuple[str, str]]:
    """Return the RPCs that the page calls not yet."""
    found = set()
    service = ""
    for line in (ROOT / "docs" / "status.md").read_text().splitlines():
        if line.startswith("### "):
            service = line[4:]
        elif match := re.match(r"\| (\w+) \| not yet \|", line):
            found.add((service, match[1]))
    return found


def methods() -> list[ParameterSet]:
    descriptors = Path(ignite.v1.__file__).with_name("descriptors.binpb")
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file
    return [
        pytest.param(service.name, method, id=f"{service.name}.{method.name}")
        for file in files
        if file.package == PACKAGE
        for service in file.service
        for method in service.method
    ]


@pytest.mark.parametrize(("service", "method"), methods())
def test_page_says_what_the_server_does(
    server: Server, service: str, method: descriptor_pb2.MethodDescriptorProto
) -> None:
    code = call(server, service, method)
    is_unbuilt = code is grpc.StatusCode.UNIMPLEMENTED
    assert is_unbuilt == ((service, method.name) in unbuilt()), code


def call(
    server: Server, service: str, method: descriptor_pb2.MethodDescriptorProto
) -> grpc.StatusCode:
    """Call a method with an app, a build and a slot that do not exist; return the status."""
    pool = descriptor_pool.Default()
    kind = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(method.input_type.lstrip("."))
    )
    request = kind()
    for field, value in (
        # Nobody's organisation where one is administered: it would be deleted.
        ("organization_name", "never-there" if service == "AdminService" else server.org),
        ("app_name", "never-there"),
        ("name", "never there!"),
        ("build_id", "never-there"),
        ("execution_id", "exec_never"),
        ("deploy_id", "never-there"),
        ("service_account_id", "sa_never"),
    ):
        if field in request.DESCRIPTOR.fields_by_name:
            setattr(request, field, value)
    path = f"/{PACKAGE}.{service}/{method.name}"
    door = server.admin_channel if service == "AdminService" else server.channel
    with door() as channel:
        try:
            if method.client_streaming:
                channel.stream_unary(path, kind.SerializeToString, bytes)(
                    iter([request]), metadata=server.metadata, timeout=20
                )
            else:
                frames = channel.unary_stream(path, kind.SerializeToString, bytes)(
                    request, metadata=server.metadata, timeout=20
                )
                for _ in frames:
                    frames.cancel()
                    break
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK
