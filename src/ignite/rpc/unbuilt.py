"""Answers for methods that the contract names and no servicer overrides."""

from typing import Any

from ignite.domain.errors import Unimplemented
from ignite.rpc.handlers import Behaviour, Context


def refusal_of(method: str) -> Behaviour:
    """Return what raises Unimplemented with the name of `method`, in place of a generated stub."""
    service, _, short = method.rpartition("/")
    name = f"{service.rpartition('.')[2]}.{short}"

    async def refuse(_request: Any, _context: Context) -> None:
        raise Unimplemented(f"{name} is not built yet", reason="NotBuilt")

    return refuse
