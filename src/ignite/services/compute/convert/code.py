"""Source code and runtimes."""

from ignite.domain.errors import InvalidArgument, Unimplemented
from ignite.domain.runtimes import Language, Runtime
from ignite.domain.sources import Source
from ignite.domain.versions import CodeKind
from ignite.v1 import ignite_common_pb2 as common

_RUST_TARGETS = {
    common.RUST_COMPILATION_TARGET_UNSPECIFIED: "",
    common.RUST_COMPILATION_TARGET_NATIVE: "native",
    common.RUST_COMPILATION_TARGET_WASM: "wasm",
}
_MODES = {
    CodeKind.UNSPECIFIED: common.DEPLOYMENT_MODE_UNSPECIFIED,
    CodeKind.SDK: common.DEPLOYMENT_MODE_COMPILATION,
    CodeKind.UPLOAD_IMAGE: common.DEPLOYMENT_MODE_IMAGE,
    CodeKind.GIT_IMAGE: common.DEPLOYMENT_MODE_IMAGE,
    CodeKind.PREBUILT: common.DEPLOYMENT_MODE_IMAGE,
}


def source(message: common.CodeSource) -> Source:
    """Return the source of a CodeSource; refuse images, which are not built."""
    match message.WhichOneof("source"):
        case "compile":
            return _compile_source(message.compile)
        case "image":
            variant = message.image.WhichOneof("variant") or "image"
            raise Unimplemented(
                f"code.image: {variant} is not built yet, send code.compile",
                reason="ImageModeNotBuilt",
            )
        case _:
            raise InvalidArgument("must be set: compile, or image", field="code")


def _compile_source(message: common.CompileSource) -> Source:
    wanted = runtime(message.runtime, "code.compile.runtime")
    if wanted is None:
        raise InvalidArgument("must be set", field="code.compile.runtime")
    body = message.WhichOneof("body")
    if body is None:
        raise InvalidArgument("must have source_code or archive", field="code.compile")
    return Source(
        runtime=wanted,
        content=message.archive if body == "archive" else message.source_code,
        is_archive=body == "archive",
        build_args=dict(message.build_args),
    )


def runtime(message: common.Runtime, field: str) -> Runtime | None:
    """Return the runtime, None when the message names no language."""
    match message.WhichOneof("runtime"):
        case "python":
            return Runtime(language=Language.PYTHON, version=message.python.version)
        case "rust":
            target = message.rust.target
            if target not in _RUST_TARGETS:
                raise InvalidArgument(
                    f"{target} is not a known value", field=f"{field}.rust.target"
                )
            return Runtime(
                language=Language.RUST,
                version=message.rust.toolchain_version,
                target=_RUST_TARGETS[target],
            )
        case "go":
            return Runtime(
                language=Language.GO,
                version=message.go.toolchain_version,
                target=message.go.target,
            )
        case "deno":
            return Runtime(language=Language.DENO, version=message.deno.version)
        case _:
            return None


def runtime_message(value: Runtime) -> common.Runtime:
    """Return the message of a runtime."""
    match value.language:
        case Language.PYTHON:
            return common.Runtime(python=common.PythonRuntime(version=value.version))
        case Language.RUST:
            numbers = {word: number for number, word in _RUST_TARGETS.items()}
            return common.Runtime(
                rust=common.RustRuntime(
                    toolchain_version=value.version, target=numbers[value.target]
                )
            )
        case Language.GO:
            return common.Runtime(
                go=common.GoRuntime(toolchain_version=value.version, target=value.target)
            )
        case Language.DENO:
            return common.Runtime(deno=common.DenoRuntime(version=value.version))


def mode(kind: CodeKind) -> common.DeploymentMode.ValueType:
    """Return how code of a kind is deployed."""
    return _MODES[kind]
