"""Drafts, versions and their code."""

from ignite.domain.addresses import PublicAddress
from ignite.domain.apps import App
from ignite.domain.builds import Build
from ignite.domain.versions import CodeKind, Version
from ignite.services.compute.convert.apps import scaling_message
from ignite.services.compute.convert.code import runtime_message
from ignite.services.compute.convert.common import number, to_ms
from ignite.services.compute.drafts import Published, Schemas
from ignite.services.compute.versions import SavedCode
from ignite.v1 import ignite_common_pb2 as common
from ignite.v1 import ignite_compute_pb2 as pb


def schemas(request: pb.SaveDraftRequest) -> Schemas:
    """Return the schemas that come with a draft."""
    return Schemas(input=request.input_schema, output=request.output_schema)


def draft_info(draft: Version) -> pb.DraftInfo:
    """Return the record of a draft."""
    return pb.DraftInfo(
        status=number(draft.status),
        code_hash=draft.code.short_hash,
        created_at_ms=to_ms(draft.created_at),
        code_kind=number(draft.code.kind),
        deploy_id=draft.deploy_id,
        build_id=draft.build_id,
        error=draft.error,
        error_reason=draft.error_reason,
        compiled_at_ms=to_ms(draft.compiled_at),
        runtime=runtime_of(draft),
    )


def compiling(build: Build) -> pb.CompileDraftResponse:
    """Return the answer of CompileDraft."""
    return pb.CompileDraftResponse(
        deploy_id=build.deploy_id, build_id=build.id, status=common.VERSION_STATUS_COMPILING
    )


def published(found: Published, address: PublicAddress) -> pb.PublishDraftResponse:
    """Return the answer of PublishDraft, with the URLs that the app will have."""
    app = found.app
    return pb.PublishDraftResponse(
        version=found.version.number,
        public_urls=address.urls(app.ref, app.config),
        deployment_state=number(app.state),
        target_version=app.target_version,
    )


def rolled_back(app: App) -> pb.RollbackAppResponse:
    """Return the answer of RollbackApp."""
    return pb.RollbackAppResponse(
        active_version=app.active_version,
        target_version=app.target_version,
        deployment_state=number(app.state),
    )


def version_info(version: Version) -> pb.AppVersionInfo:
    """Return the short form of lists."""
    return pb.AppVersionInfo(
        version=version.number,
        code_hash=version.code.short_hash,
        created_at_ms=to_ms(version.created_at),
        status=number(version.status),
        resource_tier=number(version.config.tier),
        scaling=scaling_message(version.config.scaling),
        runtime=runtime_of(version),
        code_kind=number(version.code.kind),
        error=version.error,
        error_reason=version.error_reason,
        build_id=version.build_id,
    )


def app_code(saved: SavedCode) -> pb.GetAppCodeResponse:
    """Return the source of a version."""
    return pb.GetAppCodeResponse(
        code=saved.content,
        content_type=saved.content_type,
        file_name=saved.file_name,
        code_hash=saved.version.code.short_hash,
        version=saved.version.number,
    )


def runtime_of(version: Version) -> common.Runtime | None:
    """Return the runtime of managed code, None for images."""
    if version.code.kind is not CodeKind.SDK:
        return None
    return runtime_message(version.code.runtime)
