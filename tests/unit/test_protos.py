"""The contract as the stubs carry it: methods, HTTP paths, published numbers, scopes, imports."""

import json
import subprocess
import sys
from importlib import resources

import pytest
from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from ignite.domain.identity import Scope
from ignite.v1 import (
    ignite_admin_pb2,
    ignite_build_pb2,
    ignite_common_pb2,
    ignite_compute_pb2,
    ignite_model_pb2,
    ignite_options_pb2,
    ignite_secret_pb2,
)

MODULES = (
    ignite_common_pb2,
    ignite_compute_pb2,
    ignite_build_pb2,
    ignite_model_pb2,
    ignite_secret_pb2,
    ignite_admin_pb2,
)
SERVICES: dict[str, ServiceDescriptor] = {
    name: service
    for module in MODULES
    for name, service in module.DESCRIPTOR.services_by_name.items()
}
MESSAGES: dict[str, Descriptor] = {
    name: message
    for module in MODULES
    for name, message in module.DESCRIPTOR.message_types_by_name.items()
}
METHODS: dict[str, MethodDescriptor] = {
    f"{name}.{method.name}": method
    for name, service in SERVICES.items()
    for method in service.methods
}

# Spec 4.1, 11, 12 and 13, line by line; a method with two lines has an additional binding.
HTTP = """
ComputeService CreateApp POST /v1/ignite/app/{organization_name}
ComputeService GetApp GET A
ComputeService ListApps GET /v1/ignite/app/{organization_name}
ComputeService UpdateAppConfig PATCH A/config
ComputeService DeleteApp DELETE A
ComputeService GetAppState GET A/state
ComputeService SaveDraft POST A/draft
ComputeService GetDraftInfo GET A/draft
ComputeService CompileDraft POST A/draft/compile
ComputeService TestDraft POST A/draft/test
ComputeService PublishDraft POST A/draft/publish
ComputeService ListAppVersions GET A/versions
ComputeService GetAppVersion GET A/versions/{version}
ComputeService TestAppVersion POST A/versions/{version}/test
ComputeService RollbackApp POST A/rollback
ComputeService GetAppCode GET A/code/versions/{version}
ComputeService GetAppCode GET A/code
ComputeService Invoke POST A/invoke
ComputeService InvokeAsync POST A/invoke-async
ComputeService GetExecution GET /v1/ignite/executions/{execution_id}
ComputeService WatchExecution GET /v1/ignite/executions/{execution_id}/watch
ComputeService GetExecutionStats GET A/stats/executions
ComputeService GetAppLogs GET A/logs
ComputeService StreamAppLogs GET A/logs/stream
ComputeService GetAppEvents GET A/events
ComputeService StreamAppEvents GET A/events/stream
ComputeService ListAppReplicas GET A/replicas
ComputeService GetBuildLog GET A/builds/{build_id}/log
ComputeService StreamCompileLogs GET /v1/ignite/compile/{deploy_id}/logs
ComputeService GetMcpToolDefinition GET A/mcp
ComputeService ListMcpTools GET /v1/ignite/app/{organization_name}/mcp/tools
ComputeService ListCatalog GET /v1/ignite/catalog/{organization_name}
ComputeService ListPublicCatalog GET /v1/ignite/public/catalog
ComputeService GetPublicCatalogDetail GET /v1/ignite/public/catalog/{name}
ComputeService HealthCheck GET /v1/ignite/health
BuildService CreateBuild POST /v1/ignite/builds
BuildService GetBuild GET /v1/ignite/builds/{build_id}
BuildService ListBuilds GET /v1/ignite/builds
BuildService StreamBuildLogs GET /v1/ignite/builds/{build_id}/logs/stream
BuildService CancelBuild POST /v1/ignite/builds/{build_id}/cancel
BuildService SaveBuildSecrets PUT /v1/ignite/builds/secrets
ModelService ChatCompletion POST /v1/chat/completions
ModelService StreamChatCompletion POST /v1/chat/completions/stream
ModelService Embed POST /v1/embeddings
ModelService Rerank POST /v1/rerank
ModelService StreamRerank POST /v1/rerank/stream
ModelService Transcribe POST /v1/audio/transcriptions
ModelService Infer POST /v1/infer
ModelService StreamInfer POST /v1/infer/stream
ModelService ListModels GET /v1/models
ModelService GetModel GET /v1/models/{model}
SecretService CreateSecret POST /v1/ignite/secrets
SecretService GetSecret GET /v1/ignite/secrets/{name}
SecretService ListSecrets GET /v1/ignite/secrets
SecretService DeleteSecret DELETE /v1/ignite/secrets/{name}
""".replace(" A", " /v1/ignite/app/{organization_name}/{app_name}")

SERVER_STREAMS = {
    "ComputeService.Invoke",
    "ComputeService.WatchExecution",
    "ComputeService.StreamAppLogs",
    "ComputeService.StreamAppEvents",
    "ComputeService.StreamCompileLogs",
    "BuildService.StreamBuildLogs",
    "ModelService.StreamChatCompletion",
    "ModelService.StreamRerank",
    "ModelService.StreamInfer",
}
CLIENT_STREAMS = {"BuildService.UploadBuildContext"}

PUBLIC = {
    "ComputeService.ListPublicCatalog",
    "ComputeService.GetPublicCatalogDetail",
    "ComputeService.HealthCheck",
    "ModelService.ListModels",
    "ModelService.GetModel",
}

# Spec 17; the scope of model inference and of AdminService is ours.
SCOPES = {
    "DeployApp": "CreateApp UpdateAppConfig DeleteApp SaveDraft CompileDraft PublishDraft "
    "StreamCompileLogs",
    "GetApp": "GetApp GetAppState GetDraftInfo GetAppLogs StreamAppLogs GetAppEvents "
    "StreamAppEvents ListAppReplicas GetAppCode GetMcpToolDefinition ListMcpTools GetBuildLog",
    "ListApps": "ListApps ListCatalog",
    "ListAppVersions": "ListAppVersions GetAppVersion",
    "RollbackApp": "RollbackApp",
    "InvokeApp": "Invoke InvokeAsync TestDraft TestAppVersion",
    "GetExecution": "GetExecution WatchExecution GetExecutionStats",
    "CreateBuild": "CreateBuild UploadBuildContext",
    "GetBuild": "GetBuild StreamBuildLogs",
    "ListBuilds": "ListBuilds",
    "CancelBuild": "CancelBuild",
    "SaveBuildSecrets": "SaveBuildSecrets",
    "CreateSecret": "CreateSecret",
    "GetSecret": "GetSecret",
    "ListSecrets": "ListSecrets",
    "DeleteSecret": "DeleteSecret",
    "InvokeModel": "ChatCompletion StreamChatCompletion Embed Rerank StreamRerank Transcribe "
    "Infer StreamInfer",
}

# Spec 3, 4.7, 9, 10 and 11: every number that the vendor prints.
PUBLISHED = """
AppMeta id=1 name=2 runtime=3 limits=4 env=5 created_at_ms=7 updated_at_ms=8 resource_tier=9
AppMeta scaling=10 storage_mode=11 deployment_state=15 version=26 organization_name=27
AppMeta active_version=28 description=29 input_schema=30 output_schema=31 mcp_enabled=32
AppMeta max_concurrency=38 deployment_mode=39 image_ref=40 public_urls=43 code_kind=45
ResourceLimits memory_mb=1 cpu_millicores=2 timeout_secs=3
ScalingConfig max_replicas=1 reserved_capacity=2 scale_threshold=3 scale_metric=4
ScalingConfig scaledown_period_secs=5
CodeSource compile=1 image=2
CompileSource runtime=1 source_code=2 archive=3 build_args=4
ImageSource prebuilt=1 from_code=2 from_git=3
Runtime python=1 rust=2 go=3 deno=4
Execution id=1 app_id=2 status=3 result=4 error=5 metrics=6 started_at_ms=7 completed_at_ms=8
Execution function_version=9 error_class=13
HttpContext method=1 path=2 query=3 headers=4
GetAppResponse app=1
GetExecutionStatsResponse buckets=1 bucket_secs=2 partial_clusters=3
ExecutionBucket timestamp_ms=1 completed=2 failed=3 timeout=4
McpToolDefinition name=1 description=2 input_schema=3 output_schema=4 app_id=5 version=6 runtime=7
CatalogItem id=1 name=2 description=3 tags=4 category=5 author=6 input_modality=7 created_at_ms=8
CatalogItem output_modality=9 app=10 model=11
AppCatalogFields runtime=1 mcp_enabled=2 has_streaming=3 model_count=4
ModelCatalogFields family=1
UploadBuildContextRequest metadata=1 chunk=2
UploadBuildContextMetadata content_type=1 name=2 expected_size_bytes=3
UploadBuildContextResponse context_id=1 size_bytes=2
"""

PUBLISHED_ENUMS = {
    "ResourceTier": "SMALL MEDIUM LARGE XLARGE",
    "DeploymentState": "PROVISIONING DEPLOYED COLD ARCHIVED ACTIVATING FAILED COMPILING CREATED",
    "VersionStatus": "COMPILING DRAFT ACTIVE SUPERSEDED FAILED",
    "StorageMode": "PERSISTENT EPHEMERAL TTL",
    "CodeKind": "SDK UPLOAD_IMAGE GIT_IMAGE PREBUILT",
    "CatalogSourceType": "FUNCTION MODEL",
}


def scope_of(method: MethodDescriptor) -> str:
    return str(method.GetOptions().Extensions[ignite_options_pb2.scope])


def is_public(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().Extensions[ignite_options_pb2.public])


def published_numbers() -> dict[str, dict[str, int]]:
    numbers: dict[str, dict[str, int]] = {}
    for line in PUBLISHED.split("\n"):
        if line:
            message, *fields = line.split()
            pairs = (field.split("=") for field in fields)
            numbers.setdefault(message, {}).update({name: int(number) for name, number in pairs})
    return numbers


class TestMethods:
    @pytest.mark.parametrize(
        ("service", "count"),
        [("ComputeService", 34), ("BuildService", 7), ("ModelService", 10), ("SecretService", 4)],
    )
    def test_a_service_has_as_many_methods_as_the_spec(self, service: str, count: int) -> None:
        assert len(SERVICES[service].methods) == count

    def test_names_are_those_of_the_wire(self) -> None:
        for service in SERVICES.values():
            assert service.full_name == f"dodil.ignite.v1.{service.name}"

    def test_streams_are_those_of_the_spec(self) -> None:
        assert {name for name, m in METHODS.items() if m.server_streaming} == SERVER_STREAMS
        assert {name for name, m in METHODS.items() if m.client_streaming} == CLIENT_STREAMS

    def test_invoke_async_takes_what_invoke_takes(self) -> None:
        invoke = METHODS["ComputeService.Invoke"]
        assert METHODS["ComputeService.InvokeAsync"].input_type is invoke.input_type


class TestHttp:
    def test_paths_are_those_of_the_spec(self) -> None:
        found = []
        for name, method in METHODS.items():
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            for binding in [rule, *rule.additional_bindings]:
                if verb := binding.WhichOneof("pattern"):
                    path = getattr(binding, verb)
                    found.append(f"{name.replace('.', ' ')} {verb.upper()} {path}")
        assert sorted(found) == sorted(HTTP.strip().split("\n"))

    def test_whole_body_goes_into_the_request(self) -> None:
        for method in METHODS.values():
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            writes = rule.WhichOneof("pattern") in {"post", "put", "patch"}
            assert rule.body == ("*" if writes else ""), method.full_name

    def test_uploads_and_administration_have_no_http_form(self) -> None:
        silent = {
            name
            for name, method in METHODS.items()
            if not method.GetOptions().HasExtension(annotations_pb2.http)
        }
        admin = {name for name in METHODS if name.startswith("AdminService.")}
        assert silent == admin | {"BuildService.UploadBuildContext"}


class TestScopes:
    def test_public_methods_are_exactly_five(self) -> None:
        assert {name for name, method in METHODS.items() if is_public(method)} == PUBLIC

    def test_a_method_has_a_scope_unless_it_is_public(self) -> None:
        assert {name for name, method in METHODS.items() if not scope_of(method)} == PUBLIC

    def test_scopes_are_assigned_as_in_the_spec(self) -> None:
        expected = {method: scope for scope, text in SCOPES.items() for method in text.split()}
        found = {
            method.name: scope_of(method)
            for name, method in METHODS.items()
            if not name.startswith("AdminService.") and not is_public(method)
        }
        assert found == expected

    def test_administration_has_one_scope(self) -> None:
        assert {scope_of(method) for method in SERVICES["AdminService"].methods} == {"Admin"}

    def test_roles_know_every_scope(self) -> None:
        assert {scope_of(method) for method in METHODS.values()} - {""} == set(Scope)


class TestNumbers:
    @pytest.mark.parametrize(("message", "fields"), published_numbers().items())
    def test_published_numbers_are_kept(self, message: str, fields: dict[str, int]) -> None:
        found = {field.name: field.number for field in MESSAGES[message].fields}
        assert {name: found.get(name) for name in fields} == fields

    @pytest.mark.parametrize(("message", "fields"), published_numbers().items())
    def test_our_numbers_stay_clear_of_the_vendors(
        self, message: str, fields: dict[str, int]
    ) -> None:
        for field in MESSAGES[message].fields:
            assert field.name in fields or field.number >= 100

    @pytest.mark.parametrize(("enum", "names"), PUBLISHED_ENUMS.items())
    def test_published_enum_numbers_are_kept(self, enum: str, names: str) -> None:
        values = ignite_common_pb2.DESCRIPTOR.enum_types_by_name[enum].values
        prefix = values[0].name.removesuffix("UNSPECIFIED")
        assert [v.number for v in values] == list(range(len(names.split()) + 1))
        assert [v.name for v in values] == [f"{prefix}{n}" for n in ("UNSPECIFIED", *names.split())]

    def test_zero_of_an_enum_is_unspecified(self) -> None:
        for module in MODULES:
            for enum in module.DESCRIPTOR.enum_types_by_name.values():
                assert enum.values_by_number[0].name.endswith("_UNSPECIFIED")


class TestShapes:
    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ("CreateAppRequest", '{"name":"hello","resourceTier":"RESOURCE_TIER_SMALL"}'),
            (
                "CreateAppResponse",
                '{"appId":"acme/hello","deploymentState":"DEPLOYMENT_STATE_CREATED",'
                '"appliedTier":"RESOURCE_TIER_SMALL",'
                '"appliedLimits":{"memoryMb":256,"cpuMillicores":250}}',
            ),
            (
                "SaveDraftRequest",
                '{"code":{"compile":{"runtime":{"rust":{"target":"RUST_COMPILATION_TARGET_NATIVE",'
                '"toolchainVersion":"1.82"}},"archive":"UEsDBA=="}}}',
            ),
            (
                "SaveDraftResponse",
                '{"draft":{"status":"VERSION_STATUS_DRAFT","codeHash":"9f1c2a7e",'
                '"createdAtMs":"1716900300000","codeKind":"CODE_KIND_SDK"}}',
            ),
            (
                "InvokeRequest",
                '{"http":{"method":"HTTP_METHOD_POST","path":"/"},"body":"e30="}',
            ),
            (
                "GetExecutionResponse",
                '{"execution":{"id":"exec_01","appId":"acme/hello",'
                '"status":"EXECUTION_STATUS_COMPLETED","functionVersion":3,"appName":"hello",'
                '"metrics":{"executionMs":"142","resourceTier":"Medium"}}}',
            ),
            ("CreateBuildRequest", '{"name":"web","timeoutSecs":"600","zippedCode":"H4s="}'),
        ],
    )
    def test_json_reads_as_in_the_docs(self, message: str, text: str) -> None:
        parsed = json_format.Parse(text, message_class(message)())
        assert json.loads(json_format.MessageToJson(parsed)) == json.loads(text)

    def test_model_requests_take_raw_openai_json(self) -> None:
        body = {
            "model": "kimi-k2.5",
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            ],
            "max_tokens": 5,
            "stop": ["\n"],
            "tool_choice": "auto",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "response_format": {"type": "json_object"},
        }
        request = json_format.ParseDict(body, ignite_model_pb2.ChatCompletionRequest())
        assert json_format.MessageToDict(request, preserving_proto_field_name=True) == body

    def test_absent_config_differs_from_zero(self) -> None:
        request = ignite_compute_pb2.UpdateAppConfigRequest(mcp_enabled=False)
        assert request.HasField("mcp_enabled")
        assert not request.HasField("description")

    def test_code_of_the_draft_differs_from_code_of_the_active_version(self) -> None:
        assert ignite_compute_pb2.GetAppCodeRequest(version=0).HasField("version")
        assert not ignite_compute_pb2.GetAppCodeRequest().HasField("version")


class TestPackaging:
    def test_descriptor_set_is_complete_in_itself(self) -> None:
        data = resources.files("ignite.v1").joinpath("descriptors.binpb").read_bytes()
        pool = DescriptorPool()
        for file in FileDescriptorSet.FromString(data).file:
            pool.AddSerializedFile(file.SerializeToString())
        for name, service in SERVICES.items():
            found = pool.FindServiceByName(f"dodil.ignite.v1.{name}")
            assert len(found.methods) == len(service.methods)

    def test_stubs_need_the_client_packages_alone(self) -> None:
        # typing_extensions is a requirement of grpcio itself.
        program = """
import importlib, pkgutil, sys

class ClientOnly:
    allowed = {"google", "grpc", "ignite", "typing_extensions", *sys.stdlib_module_names}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, ClientOnly())
import ignite.v1

for module in pkgutil.iter_modules(ignite.v1.__path__, "ignite.v1."):
    importlib.import_module(module.name)
print(*(name for name in sys.modules if name.startswith("ignite.")))
"""
        loaded = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
        ).stdout.split()
        assert "ignite.v1.ignite_compute_pb2_grpc" in loaded
        assert {name for name in loaded if not name.startswith("ignite.v1")} == set()


def message_class(name: str) -> type:
    found: type = next(getattr(module, name) for module in MODULES if hasattr(module, name))
    return found
