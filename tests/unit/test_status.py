"""docs/status.md names every RPC of the contract once, and every command that there is."""

import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

import ignite.v1
from ignite.cli.root import CLIENT_COMMANDS, ROLE_COMMANDS

STATUS = Path(__file__).parents[2] / "docs" / "status.md"
STATES = {"works", "partly", "not yet"}


def rows(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each table row with the heading above it."""
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("|--"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if cells[1] != "state":
                yield heading, cells


def test_every_rpc_is_listed_once_under_its_service() -> None:
    descriptors = Path(ignite.v1.__file__).with_name("descriptors.binpb")
    files = FileDescriptorSet.FromString(descriptors.read_bytes()).file
    expected = [
        (service.name, method.name)
        for file in files
        if file.package == "dodil.ignite.v1"
        for service in file.service
        for method in service.method
    ]
    listed = [
        (heading, cells[0])
        for heading, cells in rows(STATUS.read_text())
        if heading.endswith("Service")
    ]
    assert sorted(listed) == sorted(expected)


def test_every_row_has_a_known_state_and_partly_says_what_is_missing() -> None:
    for _, (name, state, note) in rows(STATUS.read_text()):
        assert state in STATES, name
        assert note or state != "partly", f"{name} is partly there: the note must say how far"


def test_every_command_is_listed() -> None:
    text = " ".join(
        cells[0] for heading, cells in rows(STATUS.read_text()) if heading == "Command line"
    )
    for name in (*CLIENT_COMMANDS, *ROLE_COMMANDS):
        assert re.search(rf"`{name}\b", text), name
