"""Who may call a method, read from the contract's method options.

No table of methods exists beside the protos. A method that states neither a scope nor that it is
public is refused; a word that is no scope stops the start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from ignite.domain.identity import Scope
from ignite.v1 import ignite_options_pb2 as options

ORGANIZATION_FIELD = "organization_name"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPolicy:
    """What a method asks of its caller; neither scope nor public means nobody may call it."""

    scope: Scope | None
    is_public: bool
    names_organization: bool


def policies_of(service_names: Iterable[str]) -> Mapping[str, MethodPolicy]:
    """Return full method name (`/package.Service/Method`) → policy for known services."""
    pool = descriptor_pool.Default()
    found: dict[str, MethodPolicy] = {}
    for name in service_names:
        for method in pool.FindServiceByName(name).methods:
            found[f"/{name}/{method.name}"] = _policy(method)
    return found


def _policy(method: MethodDescriptor) -> MethodPolicy:
    given = method.GetOptions().Extensions
    word = given[options.scope]
    is_public = given[options.public]
    if word and is_public:
        raise ValueError(f"{method.full_name} is public and asks for a scope")
    return MethodPolicy(
        scope=Scope(word) if word else None,
        is_public=is_public,
        names_organization=ORGANIZATION_FIELD in method.input_type.fields_by_name,
    )
