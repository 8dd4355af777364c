"""Values to columns and back: nothing is lost, also over releases."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ignite.db.values import config_from_json, config_to_json
from ignite.domain.apps import (
    AppConfig,
    ResourceLimits,
    ResourceTier,
    ScaleMetric,
    Scaling,
    StorageMode,
)
from ignite.domain.runtimes import Language, Runtime

TEXT = st.text(max_size=20)
NUMBER = st.integers(min_value=0, max_value=2**32 - 1)
MAYBE = st.none() | NUMBER
CONFIGS = st.builds(
    AppConfig,
    description=TEXT,
    env=st.dictionaries(TEXT, TEXT, max_size=4),
    tier=st.sampled_from(ResourceTier),
    limits=st.builds(ResourceLimits, memory_mb=MAYBE, cpu_millicores=MAYBE, timeout_secs=MAYBE),
    scaling=st.builds(
        Scaling,
        max_replicas=NUMBER,
        reserved_capacity=NUMBER,
        scale_threshold=NUMBER,
        scale_metric=st.sampled_from(ScaleMetric),
        scaledown_period_secs=NUMBER,
    ),
    ports=st.lists(NUMBER, max_size=3).map(tuple),
    health_path=TEXT,
    max_concurrency=NUMBER,
    mcp_enabled=st.booleans(),
    allow_unauthenticated=st.booleans(),
    input_schema=TEXT,
    output_schema=TEXT,
    storage_mode=st.sampled_from(StorageMode),
    ttl_seconds=NUMBER,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    category=st.lists(TEXT, max_size=3).map(tuple),
    author=TEXT,
    input_modality=TEXT,
    output_modality=TEXT,
    runtime=st.none()
    | st.builds(Runtime, language=st.sampled_from(Language), version=TEXT, target=TEXT),
)


@given(CONFIGS)
def test_config_comes_back_from_json(config: AppConfig) -> None:
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


@given(CONFIGS, st.data())
def test_field_that_an_older_release_did_not_write_has_its_default(
    config: AppConfig, data: st.DataObject
) -> None:
    written = config_to_json(config)
    missing = data.draw(st.sampled_from(sorted(written)))
    del written[missing]
    default = getattr(AppConfig(), missing)
    assert config_from_json(written) == replace(config, **{missing: default})


def test_field_of_a_newer_release_is_left_out() -> None:
    written = config_to_json(AppConfig(author="me"))
    written["colour"] = "red"
    written["scaling"]["mood"] = 1
    written["limits"]["gpus"] = 2
    assert config_from_json(written) == AppConfig(author="me")
