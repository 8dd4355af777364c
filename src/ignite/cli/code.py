"""The flags that say where code comes from, and the `CodeSource` they mean."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ignite.cli import archive
from ignite.cli.failures import WrongUse
from ignite.cli.flags import key_values
from ignite.v1 import ignite_common_pb2 as pb

RUNTIMES = ("python", "rust", "go", "deno")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFlags:
    """As given; empty where nothing was."""

    code: Path | None
    runtime: str | None
    rust_target: str | None
    toolchain: str | None
    python_version: str | None
    deno_version: str | None
    image_ref: str | None
    registry_secret_ref: str | None
    git_url: str | None
    git_ref: str | None
    git_sub_path: str | None
    git_secret_ref: str | None
    dockerfile_path: str | None
    build_arg: dict[str, str]


def code_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of `CodeFlags` to a command."""
    options = [
        click.option(
            "-c",
            "--code",
            type=click.Path(path_type=Path, exists=True),
            help="Folder, archive (ZIP, tar.gz) or single source file.",
        ),
        click.option("--runtime", type=click.Choice(RUNTIMES), help="Default: by the files."),
        click.option("--rust-target", type=click.Choice(["native", "wasm"])),
        click.option("--toolchain", help="Version of the Rust or Go toolchain."),
        click.option("--python-version", help="Such as 3.11."),
        click.option("--deno-version", help="Such as 2.0."),
        click.option("--image-ref", help="A finished image."),
        click.option("--registry-secret-ref", help="Registry slot that pulls it."),
        click.option("--git-url", help="Build an image from this repository."),
        click.option("--git-ref", help="Branch, tag or commit."),
        click.option("--git-sub-path", help="Folder in the repository."),
        click.option("--git-secret-ref", help="Git slot that clones it."),
        click.option("--dockerfile-path", help="Dockerfile, from the root of the context."),
        click.option("--build-arg", multiple=True, callback=key_values, metavar="K=V"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def code_source(flags: CodeFlags) -> pb.CodeSource | None:
    """Return the code that the flags name, None when they name none."""
    sources = [
        name
        for name, given in (
            ("--code", flags.code),
            ("--image-ref", flags.image_ref),
            ("--git-url", flags.git_url),
        )
        if given
    ]
    if len(sources) > 1:
        raise WrongUse(f"{' and '.join(sources)} exclude one another")
    if flags.image_ref:
        return pb.CodeSource(
            image=pb.ImageSource(
                prebuilt=pb.PrebuiltImage(
                    image_ref=flags.image_ref, registry_secret_ref=flags.registry_secret_ref or ""
                )
            )
        )
    if flags.git_url:
        return _from_git(flags, flags.git_url)
    return None if flags.code is None else _from_files(flags, flags.code)


def _from_git(flags: CodeFlags, url: str) -> pb.CodeSource:
    git = pb.ImageFromGit(
        url=url,
        reference=flags.git_ref or "",
        context_dir=flags.git_sub_path or "",
        dockerfile_path=flags.dockerfile_path or "",
        build_args=flags.build_arg,
        secret_ref=flags.git_secret_ref or "",
    )
    return pb.CodeSource(image=pb.ImageSource(from_git=git))


def _from_files(flags: CodeFlags, path: Path) -> pb.CodeSource:
    code = archive.read(path)
    name = flags.runtime or code.runtime
    if not name:
        raise WrongUse(
            f"cannot tell the runtime of {path}: no handler.py, Cargo.toml, go.mod or main.ts; "
            "give --runtime"
        )
    if name == "image":
        image = pb.ImageFromCode(
            archive=code.data,
            dockerfile_path=flags.dockerfile_path or "",
            build_args=flags.build_arg,
        )
        return pb.CodeSource(image=pb.ImageSource(from_code=image))
    source = pb.CompileSource(runtime=runtime(name, flags), build_args=flags.build_arg)
    if code.is_archive:
        source.archive = code.data
    else:
        source.source_code = code.data
    return pb.CodeSource(compile=source)


def runtime(name: str, flags: CodeFlags) -> pb.Runtime:
    """Return a runtime with the versions that the flags name."""
    match name:
        case "python":
            return pb.Runtime(python=pb.PythonRuntime(version=flags.python_version or ""))
        case "rust":
            target = (
                pb.RUST_COMPILATION_TARGET_WASM
                if flags.rust_target == "wasm"
                else pb.RUST_COMPILATION_TARGET_NATIVE
            )
            toolchain = flags.toolchain or ""
            return pb.Runtime(rust=pb.RustRuntime(target=target, toolchain_version=toolchain))
        case "go":
            return pb.Runtime(go=pb.GoRuntime(toolchain_version=flags.toolchain or ""))
        case _:
            return pb.Runtime(deno=pb.DenoRuntime(version=flags.deno_version or ""))


def runtime_name(value: pb.Runtime) -> str:
    """Return a runtime in short: `python 3.11`."""
    match value.WhichOneof("runtime"):
        case "python":
            return f"python {value.python.version}".strip()
        case "rust":
            wasm = value.rust.target == pb.RUST_COMPILATION_TARGET_WASM
            return f"rust-{'wasm' if wasm else 'native'} {value.rust.toolchain_version}".strip()
        case "go":
            return f"go {value.go.toolchain_version}".strip()
        case "deno":
            return f"deno {value.deno.version}".strip()
        case None:
            return ""
