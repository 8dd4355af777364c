"""Envoy's static configuration."""

from pathlib import Path

from ignite.gateway.envoy import bootstrap
from ignite.layout import Layout


def test_streams_to_a_gateway_that_is_away_are_tried_again_within_a_second(tmp_path: Path) -> None:
    config = bootstrap(Layout(tmp_path))
    (service,) = config["dynamic_resources"]["ads_config"]["grpc_services"]
    # Only here does Envoy read it for streams; else its pauses grow to half a minute.
    pauses = service["envoy_grpc"]["retry_policy"]["retry_back_off"]
    assert pauses == {"base_interval": "0.1s", "max_interval": "1s"}
