"""Apps of these tests, by the gRPC API: made, published and looked at."""

import base64
import io
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from tests.e2e.server import Answer, Server

from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb
from ignite.v1.ignite_compute_pb2_grpc import ComputeServiceStub

CALL_SECS = 30.0
LOOK_SECS = 0.02


class App:
    """One app of a server."""

    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name

    def create(self, **fields: Any) -> None:
        """Make it; `fields` are those of CreateAppRequest, as in JSON."""
        self.call("CreateApp", {"name": self.name, **fields})

    def configure(self, **fields: Any) -> None:
        """Change what is named."""
        named = ",".join(_camel(name) for name in fields)
        self.call("UpdateAppConfig", {"app_name": self.name, **fields, "update_mask": named})

    def publish(self, code: str) -> int:
        """Publish this handler and wait until it serves."""
        self.call("SaveDraft", {"app_name": self.name, "code": python(packed(code))})
        self.call("CompileDraft", {"app_name": self.name})
        wait_for(lambda: self._draft().status != common.VERSION_STATUS_COMPILING)
        assert self._draft().status == common.VERSION_STATUS_DRAFT, self._draft()
        number: int = self.call("PublishDraft", {"app_name": self.name}).version
        wait_for(lambda: self.state().active_version == number)
        return number

    def state(self) -> pb.GetAppStateResponse:
        """Return how it stands."""
        found: pb.GetAppStateResponse = self.call("GetAppState", {"app_name": self.name})
        return found

    def ready(self) -> int:
        """Return how many replicas are ready."""
        ready = common.REPLICA_STATE_READY
        return sum(replica.state == ready for replica in self.state().replicas)

    def asleep(self) -> None:
        """Wait until it was scaled to zero."""
        cold = common.DEPLOYMENT_STATE_COLD
        wait_for(lambda: self.state().deployment_state == cold and not self.state().replicas)

    def delete(self) -> None:
        """Take it away, where it is there."""
        try:
            self.call("DeleteApp", {"app_name": self.name})
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise

    def http(self, body: bytes = b"", **more: Any) -> Answer:
        """Call it by its host name."""
        return self.server.http("POST", "/", body, host=self.server.host_of(self.name), **more)

    def says(self, body: bytes) -> dict[str, Any]:
        """Return what the app answers to `body`, as JSON."""
        answer = self.http(body)
        assert answer.status == 200, answer
        said: dict[str, Any] = answer.json()
        return said

    def call(self, method: str, fields: Mapping[str, Any]) -> Any:
        """Call a unary method of ComputeService in the server's organisation."""
        return call(self.server, method, {"organization_name": self.server.org, **fields})

    def _draft(self) -> pb.DraftInfo:
        found: pb.DraftInfo = self.call("GetDraftInfo", {"app_name": self.name}).draft
        return found


def call(server: Server, method: str, fields: Mapping[str, Any]) -> Any:
    """Call a method of ComputeService; a stream is read to its end."""
    kind = pb.DESCRIPTOR.services_by_name["ComputeService"].methods_by_name[method]
    request = ParseDict(dict(fields), getattr(pb, kind.input_type.name)())
    with server.channel() as channel:
        stub = ComputeServiceStub(channel)
        answer = getattr(stub, method)(request, metadata=server.metadata, timeout=CALL_SECS)
        return list(answer) if kind.server_streaming else answer


def packed(code: str, more: Mapping[str, bytes] | None = None) -> bytes:
    """Return a ZIP with this handler, the same bytes for the same code."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, data in {"handler.py": code.encode(), **(more or {})}.items():
            pack.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def python(archive: bytes, **more: Any) -> dict[str, Any]:
    """Return a CodeSource as JSON."""
    encoded = base64.b64encode(archive).decode()
    return {"compile": {"runtime": {"python": {}}, "archive": encoded, **more}}


def wait_for(is_so: Callable[[], bool], *, secs: float = 60.0) -> None:
    """Ask until it is so: what is asked is another process, which tells nobody."""
    ends = time.monotonic() + secs
    while not is_so():
        assert time.monotonic() < ends, f"not so within {secs} s"
        time.sleep(LOOK_SECS)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)
