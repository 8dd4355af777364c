"""What the contract says of the JSON API: its paths, their methods, and who may call them.

Read from the descriptors that Envoy's transcoder gets, so that the routes around it never say
anything else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto

from ignite.gateway.authorization import Config
from ignite.gateway.shape import Shape
from ignite.v1 import ignite_options_pb2 as options

PACKAGE = "dodil.ignite.v1"
# Admin has a listener of its own; the JSON of models is not protobuf's and is made by the edge.
_NOT_TRANSCODED = frozenset({f"{PACKAGE}.AdminService", f"{PACKAGE}.ModelService"})
_SEGMENT = "[!-.0-~]+"


def transcoded_services(descriptors: bytes) -> tuple[str, ...]:
    """Return the services of ours that Envoy serves as JSON."""
    found = {
        f"{file.package}.{service.name}"
        for file in FileDescriptorSet.FromString(descriptors).file
        if file.package == PACKAGE
        for service in file.service
    }
    return tuple(sorted(found - _NOT_TRANSCODED))


def open_paths(shape: Shape) -> list[Config]:
    """Return what matches the paths of JSON that the contract serves to everybody.

    A form of path that is not understood here asks for a token: the safe side.
    """
    found: list[Config] = []
    for service, method in open_methods(shape.descriptors):
        path = method.options.Extensions[annotations_pb2.http].get
        if service not in shape.services or not path:
            continue
        parts = re.split(r"\{\w+\}", path)
        regex = "[^/]+".join(re.escape(part) for part in parts)
        found.append({"safe_regex": {"regex": regex}} if parts[1:] else {"path": path})
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonPath:
    """A path of the JSON API as a regex, and its methods; `is_open` says that all are public."""

    regex: str
    methods: tuple[str, ...]
    is_open: bool


def json_paths(shape: Shape) -> list[JsonPath]:
    """Return all paths. Where two templates fit one path, each has the methods of both.

    They cannot be one regex: Envoy bounds the size of each.
    """
    templates: dict[tuple[str, ...], tuple[set[str], bool]] = {}
    for service, method in _methods(shape.descriptors):
        if service not in shape.services:
            continue
        rule = method.options.Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            verb = binding.WhichOneof("pattern")
            if verb is None or verb == "custom":
                continue
            key = tuple(re.sub(r"\{\w+\}", "*", getattr(binding, verb)).split("/"))
            methods, is_open = templates.setdefault(key, (set(), True))
            methods.add(verb.upper())
            templates[key] = methods, is_open and method.options.Extensions[options.public]
    found: list[JsonPath] = []
    for key, (_, is_open) in templates.items():
        fit = (methods for other, (methods, _) in templates.items() if _overlap(key, other))
        methods = set[str]().union(*fit)
        regex = "/".join(_SEGMENT if part == "*" else re.escape(part) for part in key)
        found.append(JsonPath(regex=regex, methods=tuple(sorted(methods)), is_open=is_open))
    return found


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(a == b or "*" in (a, b) for a, b in pairs)


def open_methods(descriptors: bytes) -> Iterator[tuple[str, MethodDescriptorProto]]:
    """Yield the methods that the contract calls public, with their services."""
    for service, method in _methods(descriptors):
        if method.options.Extensions[options.public]:
            yield service, method


def _methods(descriptors: bytes) -> Iterator[tuple[str, MethodDescriptorProto]]:
    for file in FileDescriptorSet.FromString(descriptors).file:
        for service in file.service:
            for method in service.method:
                yield f"{file.package}.{service.name}", method
