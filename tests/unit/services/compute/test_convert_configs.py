"""The config of an app as requests bring it: defaults, presence, the update mask."""

from dataclasses import fields
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from ignite.domain import apps as domain
from ignite.domain.app_checks import ConfigChange
from ignite.domain.apps import AppConfig, ResourceLimits, ResourceTier, ScaleMetric, Scaling
from ignite.domain.errors import InvalidArgument, Unimplemented
from ignite.domain.executions import ExecutionStatus
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.versions import CodeKind, VersionStatus
from ignite.services.compute.convert import code as convert_code
from ignite.services.compute.convert.configs import config_change, new_config
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb

ALL_SET: dict[str, Any] = {
    "description": "d",
    "resource_tier": common.RESOURCE_TIER_LARGE,
    "limits": common.ResourceLimits(memory_mb=300),
    "env": {"A": "1"},
    "scaling": common.ScalingConfig(
        max_replicas=1,
        reserved_capacity=2,
        scale_threshold=3,
        scale_metric=common.SCALE_METRIC_CONCURRENCY,
        scaledown_period_secs=60,
    ),
    "storage_mode": common.STORAGE_MODE_TTL,
    "ttl_seconds": 9,
    "mcp_enabled": True,
    "input_schema": "{}",
    "output_schema": '{"a":1}',
    "ports": [8080, 80],
    "health_path": "/up",
    "max_concurrency": 4,
    "allow_unauthenticated": True,
    "tags": ["t"],
    "category": ["c"],
    "author": "me",
    "input_modality": "text",
    "output_modality": "image",
}
ALL_READ: dict[str, Any] = {
    "description": "d",
    "tier": ResourceTier.LARGE,
    "limits": ResourceLimits(memory_mb=300),
    "env": {"A": "1"},
    "scaling": Scaling(
        max_replicas=1,
        reserved_capacity=2,
        scale_threshold=3,
        scale_metric=ScaleMetric.CONCURRENCY,
        scaledown_period_secs=60,
    ),
    "storage_mode": domain.StorageMode.TTL,
    "ttl_seconds": 9,
    "mcp_enabled": True,
    "input_schema": "{}",
    "output_schema": '{"a":1}',
    "ports": (8080, 80),
    "health_path": "/up",
    "max_concurrency": 4,
    "allow_unauthenticated": True,
    "tags": ("t",),
    "category": ("c",),
    "author": "me",
    "input_modality": "text",
    "output_modality": "image",
}


class TestNewConfig:
    def test_nothing_given_is_the_default_config(self) -> None:
        assert new_config(pb.CreateAppRequest(name="x")) == AppConfig()

    def test_every_field_is_read(self) -> None:
        request = pb.CreateAppRequest(
            **ALL_SET, runtime=common.Runtime(deno=common.DenoRuntime(version="2.0"))
        )
        runtime = Runtime(language=Language.DENO, version="2.0")
        assert new_config(request) == AppConfig(**ALL_READ, runtime=runtime)

    def test_explicit_zero_limit_is_seen(self) -> None:
        request = pb.CreateAppRequest(limits=common.ResourceLimits(memory_mb=0))
        assert new_config(request).limits == ResourceLimits(memory_mb=0)

    @pytest.mark.parametrize(
        ("values", "field"),
        [
            ({"resource_tier": 99}, "resource_tier"),
            ({"storage_mode": 99}, "storage_mode"),
            ({"scaling": common.ScalingConfig(scale_metric=99)}, "scaling.scale_metric"),  # type: ignore[arg-type]
            ({"auto_mode": 99}, "auto_mode"),
            (
                {"runtime": common.Runtime(rust=common.RustRuntime(target=99))},  # type: ignore[arg-type]
                "runtime.rust.target",
            ),
        ],
    )
    def test_unknown_enum_number_is_refused_by_field(
        self, values: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidArgument, match=r"99 is not a known value") as caught:
            new_config(pb.CreateAppRequest(**values))
        assert caught.value.field == field

    @pytest.mark.parametrize(
        "mode",
        [common.AUTO_MODE_ENABLED, common.AUTO_MODE_TIER_ONLY, common.AUTO_MODE_SCALE_ONLY],
    )
    def test_auto_mode_that_is_not_built_says_so(self, mode: Any) -> None:
        with pytest.raises(Unimplemented, match="auto_mode"):
            new_config(pb.CreateAppRequest(auto_mode=mode))
        new_config(pb.CreateAppRequest(auto_mode=common.AUTO_MODE_DISABLED))


class TestConfigChange:
    def test_nothing_given_changes_nothing(self) -> None:
        assert config_change(pb.UpdateAppConfigRequest(app_name="x")).changed == frozenset()

    def test_every_field_is_read(self) -> None:
        assert config_change(pb.UpdateAppConfigRequest(**ALL_SET)) == ConfigChange(**ALL_READ)

    def test_present_default_of_a_scalar_is_a_change(self) -> None:
        request = pb.UpdateAppConfigRequest(
            description="",
            mcp_enabled=False,
            max_concurrency=0,
            resource_tier=common.RESOURCE_TIER_UNSPECIFIED,
        )
        assert config_change(request) == ConfigChange(
            description="", mcp_enabled=False, max_concurrency=0, tier=ResourceTier.SMALL
        )

    def test_present_empty_message_replaces_the_old_one(self) -> None:
        request = pb.UpdateAppConfigRequest(limits=common.ResourceLimits())
        assert config_change(request) == ConfigChange(limits=ResourceLimits())

    def test_empty_maps_and_lists_change_nothing_without_a_mask(self) -> None:
        request = pb.UpdateAppConfigRequest(env={}, ports=[], tags=[])
        assert config_change(request).changed == frozenset()

    @pytest.mark.parametrize("path", sorted(ALL_SET))
    def test_mask_clears_a_field_that_is_absent(self, path: str) -> None:
        change = config_change(pb.UpdateAppConfigRequest(update_mask=FieldMask(paths=[path])))
        assert len(change.changed) == 1
        config = change.apply(AppConfig(**ALL_READ))
        (name,) = change.changed
        assert getattr(config, name) == getattr(AppConfig(), name)

    def test_mask_leaves_out_what_it_does_not_name(self) -> None:
        request = pb.UpdateAppConfigRequest(
            description="d", author="me", update_mask=FieldMask(paths=["author"])
        )
        assert config_change(request) == ConfigChange(author="me")

    def test_empty_mask_is_no_mask(self) -> None:
        request = pb.UpdateAppConfigRequest(author="me", update_mask=FieldMask(paths=[]))
        assert config_change(request) == ConfigChange(author="me")

    @pytest.mark.parametrize(
        "path", ["nothing", "app_name", "organization_name", "update_mask", "*", "", "maxReplicas"]
    )
    def test_unknown_path_is_refused_by_name(self, path: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            config_change(pb.UpdateAppConfigRequest(update_mask=FieldMask(paths=["env", path])))
        assert caught.value.field == "update_mask"
        assert repr(path) in caught.value.message

    def test_part_of_a_message_is_refused_with_the_reason(self) -> None:
        request = pb.UpdateAppConfigRequest(update_mask=FieldMask(paths=["scaling.max_replicas"]))
        with pytest.raises(InvalidArgument, match="replaced as a whole"):
            config_change(request)

    def test_mask_of_json_is_camel_case(self) -> None:
        request = json_format.Parse(
            '{"healthPath": "/up", "updateMask": "healthPath,maxConcurrency"}',
            pb.UpdateAppConfigRequest(),
        )
        assert config_change(request) == ConfigChange(health_path="/up", max_concurrency=0)

    def test_auto_mode_that_is_not_built_says_so(self) -> None:
        with pytest.raises(Unimplemented, match="auto_mode"):
            config_change(pb.UpdateAppConfigRequest(auto_mode=common.AUTO_MODE_ENABLED))
        config_change(pb.UpdateAppConfigRequest(update_mask=FieldMask(paths=["auto_mode"])))

    def test_every_field_of_the_request_has_a_reader(self) -> None:
        names = {field.name for field in pb.UpdateAppConfigRequest.DESCRIPTOR.fields}
        assert names - set(ALL_SET) == {
            "organization_name",
            "app_name",
            "update_mask",
            "auto_mode",
        }
        assert {field.name for field in fields(AppConfig)} == set(ALL_READ) | {"runtime"}


class TestSource:
    def test_file_and_archive_are_told_apart(self) -> None:
        runtime = common.Runtime(python=common.PythonRuntime(version="3.12"))
        message = common.CodeSource(
            compile=common.CompileSource(runtime=runtime, archive=b"PK", build_args={"A": "1"})
        )
        source = convert_code.source(message)
        assert (source.is_archive, source.content) == (True, b"PK")
        assert source.build_args == {"A": "1"}
        assert source.runtime == Runtime(language=Language.PYTHON, version="3.12")

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            (common.CodeSource(), "code: must be set"),
            (common.CodeSource(compile=common.CompileSource()), "code.compile.runtime"),
            (
                common.CodeSource(
                    compile=common.CompileSource(
                        runtime=common.Runtime(python=common.PythonRuntime())
                    )
                ),
                "code.compile: must have source_code or archive",
            ),
        ],
    )
    def test_missing_part_is_named(self, message: common.CodeSource, text: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            convert_code.source(message)
        assert caught.value.message.startswith(text)

    @pytest.mark.parametrize(
        ("image", "word"),
        [
            (common.ImageSource(prebuilt=common.PrebuiltImage(image_ref="x")), "prebuilt"),
            (common.ImageSource(from_git=common.ImageFromGit(url="x")), "from_git"),
            (common.ImageSource(), "image"),
        ],
    )
    def test_image_that_is_not_built_is_named(self, image: common.ImageSource, word: str) -> None:
        with pytest.raises(Unimplemented, match=f"code.image: {word}"):
            convert_code.source(common.CodeSource(image=image))

    @pytest.mark.parametrize(
        "runtime",
        [
            Runtime(language=Language.PYTHON, version="3.11"),
            Runtime(language=Language.RUST, version="1.82", target="wasm"),
            Runtime(language=Language.RUST),
            Runtime(language=Language.GO, version="1.24", target="linux/amd64"),
            Runtime(language=Language.DENO, version="2.0"),
        ],
    )
    def test_runtime_comes_back_as_it_was(self, runtime: Runtime) -> None:
        assert convert_code.runtime(convert_code.runtime_message(runtime), "x") == runtime


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (domain.ResourceTier, common.ResourceTier, "RESOURCE_TIER_"),
        (domain.DeploymentState, common.DeploymentState, "DEPLOYMENT_STATE_"),
        (domain.StorageMode, common.StorageMode, "STORAGE_MODE_"),
        (domain.ScaleMetric, common.ScaleMetric, "SCALE_METRIC_"),
        (VersionStatus, common.VersionStatus, "VERSION_STATUS_"),
        (CodeKind, common.CodeKind, "CODE_KIND_"),
        (ExecutionStatus, common.ExecutionStatus, "EXECUTION_STATUS_"),
    ],
)
def test_enums_of_the_domain_have_the_wires_numbers(ours: Any, theirs: Any, prefix: str) -> None:
    assert {f"{prefix}{item.name}": item.value for item in ours} == dict(theirs.items())
