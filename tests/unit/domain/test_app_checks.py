"""Every field of an app's config: what is taken, and how the refusal names field and bound."""

from dataclasses import fields, replace
from typing import Any

import pytest

from ignite.domain.app_checks import (
    ALL_FIELDS,
    AppBounds,
    ConfigChange,
    check_config,
    effective_max_replicas,
)
from ignite.domain.apps import AppConfig, ResourceLimits, Scaling, StorageMode
from ignite.domain.errors import IgniteError, InvalidArgument, Unimplemented

BOUNDS = AppBounds(
    env_entries=2,
    env_bytes=20,
    description_chars=5,
    schema_bytes=20,
    memory_mb=8192,
    cpu_millicores=8000,
    timeout_secs=3600,
    replicas=1000,
    replica_cap=5,
    scaledown_floor_secs=30,
    ports=3,
    concurrency=1000,
    labels=2,
    label_chars=4,
    build_args=2,
    build_args_bytes=20,
    archive_bytes=100,
)

TAKEN: list[dict[str, Any]] = [
    {},
    {"description": "ä" * 5},
    {"env": {"A": "1", "_b2": ""}},
    {"env": {"PORTS": "1", "HOMES": "", "MY_LD_": "x"}} | {"env": {"PORTS": "1"}},
    {"limits": ResourceLimits(memory_mb=64, cpu_millicores=50, timeout_secs=1)},
    {"limits": ResourceLimits(memory_mb=8192, cpu_millicores=8000, timeout_secs=3600)},
    {"scaling": Scaling(max_replicas=1000, reserved_capacity=5)},
    {"scaling": Scaling(max_replicas=2, reserved_capacity=2)},
    {"scaling": Scaling(scale_threshold=1_000_000, scaledown_period_secs=30)},
    {"scaling": Scaling(scaledown_period_secs=86_400)},
    {"ports": (1, 65_535, 80)},
    {"health_path": "/"},
    {"health_path": "/a-b/c%20d"},
    {"max_concurrency": 1000},
    {"input_schema": '{"type":"string"}'},
    {"output_schema": "{}"},
    {"tags": ("a", "abcd"), "category": ("x",)},
    {"author": "me", "input_modality": "text", "output_modality": ""},
]

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"description": "123456"}, "description", "at most 5 characters, has 6"),
    ({"description": "a\0"}, "description", "NUL"),
    ({"env": {"A": "", "B": "", "C": ""}}, "env", "at most 2 entries, has 3"),
    ({"env": {"A": "x" * 20}}, "env", "at most 20 bytes together, are 21"),
    ({"env": {"A": "é" * 10}}, "env", "are 21"),
    ({"env": {"1A": ""}}, "env", "'1A'"),
    ({"env": {"": ""}}, "env", "letters, digits"),
    ({"env": {"A-B": ""}}, "env", "'A-B'"),
    ({"env": {"A\n": ""}}, "env", "names must be"),
    ({"env": {"ä": ""}}, "env", "names must be"),
    ({"env": {"A": "x\0"}}, "env", "NUL"),
    ({"env": {"PORT": "1"}}, "env", "'PORT' is the platform's own"),
    ({"env": {"Home": "1"}}, "env", "'Home' is the platform's own"),
    ({"env": {"IGNITE_X": "1"}}, "env", "'IGNITE_X' is the platform's own"),
    ({"env": {"LD_PRELOAD": "1"}}, "env", "'LD_PRELOAD' is the platform's own"),
    ({"limits": ResourceLimits(memory_mb=0)}, "limits.memory_mb", "must be 64 to 8192, is 0"),
    ({"limits": ResourceLimits(memory_mb=63)}, "limits.memory_mb", "64 to 8192"),
    ({"limits": ResourceLimits(memory_mb=8193)}, "limits.memory_mb", "64 to 8192"),
    ({"limits": ResourceLimits(cpu_millicores=49)}, "limits.cpu_millicores", "50 to 8000"),
    ({"limits": ResourceLimits(cpu_millicores=8001)}, "limits.cpu_millicores", "50 to 8000"),
    ({"limits": ResourceLimits(timeout_secs=0)}, "limits.timeout_secs", "1 to 3600"),
    ({"limits": ResourceLimits(timeout_secs=3601)}, "limits.timeout_secs", "1 to 3600"),
    ({"scaling": Scaling(max_replicas=1001)}, "scaling.max_replicas", "0 to 1000"),
    (
        {"scaling": Scaling(max_replicas=2, reserved_capacity=3)},
        "scaling.reserved_capacity",
        "at most the 2 replicas",
    ),
    (
        {"scaling": Scaling(max_replicas=100, reserved_capacity=6)},
        "scaling.reserved_capacity",
        "at most the 5 replicas",
    ),
    (
        {"scaling": Scaling(scale_threshold=1_000_001)},
        "scaling.scale_threshold",
        "0 to 1000000",
    ),
    (
        {"scaling": Scaling(scaledown_period_secs=29)},
        "scaling.scaledown_period_secs",
        "must be 0 (the default) or 30 to 86400, is 29",
    ),
    ({"scaling": Scaling(scaledown_period_secs=86_401)}, "scaling.scaledown_period_secs", "86400"),
    ({"ports": (1, 2, 3, 4)}, "ports", "at most 3 ports, has 4"),
    ({"ports": (0,)}, "ports", "1 to 65535, is 0"),
    ({"ports": (65_536,)}, "ports", "1 to 65535"),
    ({"ports": (80, 80)}, "ports", "twice"),
    ({"health_path": "healthz"}, "health_path", "start with '/'"),
    ({"health_path": "/a b"}, "health_path", "visible ASCII"),
    ({"health_path": "/a?b"}, "health_path", "'?'"),
    ({"health_path": "/a#b"}, "health_path", "'#'"),
    ({"health_path": "/a\r\nX: y"}, "health_path", "visible ASCII"),
    ({"health_path": "/ä"}, "health_path", "visible ASCII"),
    ({"health_path": "/" + "a" * 256}, "health_path", "at most 256 characters, has 257"),
    ({"max_concurrency": 1001}, "max_concurrency", "0 to 1000"),
    ({"input_schema": "{"}, "input_schema", "JSON"),
    ({"input_schema": "[]"}, "input_schema", "JSON object"),
    ({"input_schema": '{"a":NaN}'}, "input_schema", "JSON"),
    ({"output_schema": "[" * 20}, "output_schema", "JSON"),
    ({"output_schema": '{"a":"' + "x" * 20 + '"}'}, "output_schema", "at most 20 bytes"),
    ({"ttl_seconds": 1}, "ttl_seconds", "storage_mode"),
    ({"tags": ("a", "b", "c")}, "tags", "at most 2 entries, has 3"),
    ({"tags": ("",)}, "tags", "empty"),
    ({"tags": ("abcde",)}, "tags", "at most 4 characters"),
    ({"category": ("a\0",)}, "category", "NUL"),
    ({"author": "abcde"}, "author", "at most 4"),
    ({"input_modality": "abcde"}, "input_modality", "at most 4"),
    ({"output_modality": "abcde"}, "output_modality", "at most 4"),
]


class TestCheckConfig:
    @pytest.mark.parametrize("values", TAKEN, ids=str)
    def test_value_within_the_bounds_is_taken(self, values: dict[str, Any]) -> None:
        check_config(replace(AppConfig(), **values), BOUNDS, ALL_FIELDS)

    @pytest.mark.parametrize(("values", "field", "text"), REFUSED, ids=str)
    def test_value_out_of_bounds_is_refused_by_field_and_bound(
        self, values: dict[str, Any], field: str, text: str
    ) -> None:
        with pytest.raises(InvalidArgument) as caught:
            check_config(replace(AppConfig(), **values), BOUNDS, ALL_FIELDS)
        assert caught.value.field == field
        assert field in caught.value.message
        assert text in caught.value.message

    @pytest.mark.parametrize("mode", [StorageMode.EPHEMERAL, StorageMode.TTL])
    def test_storage_mode_that_is_not_built_says_so(self, mode: StorageMode) -> None:
        with pytest.raises(Unimplemented, match=f"storage_mode: {mode.name}"):
            check_config(AppConfig(storage_mode=mode), BOUNDS, ALL_FIELDS)

    def test_deep_schema_is_refused_not_a_crash(self) -> None:
        bounds = replace(BOUNDS, schema_bytes=1_000_000)
        with pytest.raises(InvalidArgument):
            check_config(AppConfig(input_schema='{"a":' * 100_000), bounds, ALL_FIELDS)

    def test_only_named_fields_are_checked(self) -> None:
        config = AppConfig(description="far too long", max_concurrency=1)
        check_config(config, BOUNDS, {"max_concurrency"})
        with pytest.raises(IgniteError):
            check_config(config, BOUNDS, {"description"})

    def test_every_field_that_can_be_wrong_has_a_check(self) -> None:
        free = {"tier", "mcp_enabled", "allow_unauthenticated", "runtime"}
        assert {field.name for field in fields(AppConfig)} == ALL_FIELDS | free


class TestConfigChange:
    def test_has_every_field_of_the_config(self) -> None:
        assert [f.name for f in fields(ConfigChange)] == [f.name for f in fields(AppConfig)]

    def test_empty_values_are_changes_and_none_is_not(self) -> None:
        config = AppConfig(env={"A": "1"}, description="d", ports=(80,), mcp_enabled=True)
        change = ConfigChange(env={}, description="", mcp_enabled=False)
        assert change.changed == {"env", "description", "mcp_enabled"}
        assert change.apply(config) == AppConfig(ports=(80,))


@pytest.mark.parametrize(
    ("asked", "cap", "most"), [(0, 5, 5), (0, 50, 10), (3, 5, 3), (100, 5, 5), (1, 1, 1)]
)
def test_most_replicas_are_the_apps_below_the_platforms(asked: int, cap: int, most: int) -> None:
    assert effective_max_replicas(Scaling(max_replicas=asked), cap) == most
