"""Methods are found where services add themselves, and made ready once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from ignite.rpc.entrance import Entrance
from ignite.rpc.gates import OPEN, Gate
from ignite.rpc.methods import Methods
from ignite.v1 import ignite_compute_pb2_grpc as pb_grpc

SERVICE = "/dodil.ignite.v1.ComputeService"


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    method: str
    invocation_metadata: Sequence[tuple[str, str]] = ()


@dataclass(slots=True)
class Asked:
    """Lets everyone in, and knows for which methods it was asked."""

    methods: list[str] = field(default_factory=list)

    def gate(self, method: str) -> Gate:
        self.methods.append(method)
        return OPEN


class Servicer(pb_grpc.ComputeServiceServicer):
    async def GetApp(self, request: Any, context: Any) -> Any:  # noqa: N802 - the wire's name
        return request


def methods(auth: Asked) -> Methods:
    found = Methods(Entrance(auth=auth, metrics=None))
    pb_grpc.add_ComputeServiceServicer_to_server(Servicer(), found)  # type: ignore[arg-type]
    return found


def find(among: Methods, method: str) -> Any:
    details: Any = Details(method=method)
    return among.service(details)


def test_method_is_made_ready_at_its_first_call_alone() -> None:
    auth = Asked()
    found = methods(auth)
    assert auth.methods == []
    first = find(found, f"{SERVICE}/GetApp")
    assert find(found, f"{SERVICE}/GetApp") is first
    assert auth.methods == [f"{SERVICE}/GetApp"]


def test_stub_has_a_gate_too() -> None:
    auth = Asked()
    assert find(methods(auth), f"{SERVICE}/DeleteApp") is not None
    assert auth.methods == [f"{SERVICE}/DeleteApp"]


def test_methods_that_nobody_serves_are_not_remembered() -> None:
    auth = Asked()
    found = methods(auth)
    for method in (f"{SERVICE}/Nothing", "/other.Service/GetApp", ""):
        assert find(found, method) is None
    assert auth.methods == []


def test_services_keep_the_kind_of_their_methods() -> None:
    found = methods(Asked())
    assert find(found, f"{SERVICE}/GetApp").unary_unary is not None
    invoke = find(found, f"{SERVICE}/Invoke")
    assert (invoke.request_streaming, invoke.response_streaming) == (False, True)
    assert isinstance(found, grpc.GenericRpcHandler)
