"""Generate the stubs and descriptors that are committed under src/ignite from proto/.

Works offline: google/api comes from the installed googleapis-common-protos and the well-known types
from grpcio-tools, so that the locked dev requirements decide every byte of the output.

    python tools/generate_protos.py             write what is generated
    python tools/generate_protos.py --check     fail when that would change a file
    python tools/generate_protos.py --lint      buf lint, buf format and buf breaking
    python tools/generate_protos.py --release   make today's contract the one that may not break
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PUBLIC = Path("ignite/v1")
PACKAGES = (PUBLIC, Path("ignite/internal/v1"))
DOCSTRINGS = {
    PUBLIC: "The public contract, dodil.ignite.v1.",
    Path("ignite/internal"): "Contracts that never leave the installation.",
    Path("ignite/internal/v1"): "The wires between our own processes, dodil.ignite.internal.v1.",
}
DESCRIPTORS = Path("ignite/v1/descriptors.binpb")
# The details of errors. Nothing imports them, but Envoy needs their types to write errors as JSON.
ERROR_TYPES = ("google/rpc/status.proto", "google/rpc/error_details.proto")
BASELINE = PROTO / "image.binpb"


class GenerationError(Exception):
    """A tool refused; its own words are already on stderr."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="fail when a generated file is stale")
    mode.add_argument("--lint", action="store_true", help="run buf lint, format and breaking")
    mode.add_argument("--release", action="store_true", help="replace proto/image.binpb")
    options = parser.parse_args(arguments)
    try:
        if options.lint:
            lint()
        elif options.release:
            BASELINE.write_bytes(descriptor_set(sources_of(*PACKAGES), with_comments=False))
        else:
            return compare_or_write(generate(), write=not options.check)
    except GenerationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def generate() -> Mapping[Path, bytes]:
    """Return the content of every generated file by its path below src/."""
    files = {
        folder / "__init__.py": f'"""{text} Generated from proto/; never edited."""\n'.encode()
        for folder, text in DOCSTRINGS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run_protoc(
            f"--plugin=protoc-gen-mypy={beside_python('protoc-gen-mypy')}",
            f"--plugin=protoc-gen-mypy_grpc={beside_python('protoc-gen-mypy_grpc')}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet,generate_concrete_servicer_stubs:{out}",
            *sources_of(*PACKAGES),
        )
        # A file without services still gets an empty service module; nobody needs those.
        empty = without_services(sources_of(*PACKAGES))
        for path in sorted(path for path in out.rglob("*") if path.is_file()):
            if not path.name.startswith(empty):
                files[path.relative_to(out)] = path.read_bytes()
    files[DESCRIPTORS] = descriptor_set([*sources_of(PUBLIC), *ERROR_TYPES], with_comments=False)
    return files


def compare_or_write(files: Mapping[Path, bytes], *, write: bool) -> int:
    source = ROOT / "src"
    stale = [path for path, data in files.items() if read_if_there(source / path) != data]
    extra = [
        path.relative_to(source)
        for package in PACKAGES
        for path in sorted((source / package).glob("*"))
        if path.is_file() and path.relative_to(source) not in files
    ]
    if not write:
        for path in [*stale, *extra]:
            sys.stderr.write(f"src/{path} is not what proto/ generates; run `make proto`\n")
        return 1 if stale or extra else 0
    for path in stale:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(files[path])
    for path in extra:
        (source / path).unlink()
    return 0


def lint() -> None:
    """Run buf on an image that protoc built, because buf itself would fetch google/api."""
    image = descriptor_set(sources_of(*PACKAGES), with_comments=True)
    with tempfile.TemporaryDirectory() as folder:
        current = Path(folder) / "current.binpb"
        current.write_bytes(image)
        only_ours = [f"--path={package}" for package in PACKAGES]
        config = f"--config={ROOT / 'buf.yaml'}"
        run_buf("lint", str(current), config, *only_ours)
        run_buf("breaking", str(current), config, f"--against={BASELINE}", *only_ours)
    with tempfile.TemporaryDirectory() as folder:
        # The layout of sources needs no image, but buf insists on a module: hence the copy.
        copytree(PROTO, folder, dirs_exist_ok=True)
        run_buf("format", "--diff", "--exit-code", folder, cwd=Path(folder))


def descriptor_set(sources: Sequence[str], *, with_comments: bool) -> bytes:
    """Return the files and all they import as one serialised FileDescriptorSet."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        extra = ["--include_source_info"] if with_comments else []
        run_protoc("--include_imports", f"--descriptor_set_out={out}", *extra, *sources)
        return FileDescriptorSet.FromString(out.read_bytes()).SerializeToString(deterministic=True)


def without_services(sources: Sequence[str]) -> tuple[str, ...]:
    """Return how the service modules of files without a service begin."""
    described = FileDescriptorSet.FromString(descriptor_set(sources, with_comments=False))
    return tuple(
        f"{Path(file.name).stem}_pb2_grpc."
        for file in described.file
        if file.name in sources and not file.service
    )


def sources_of(*packages: Path) -> list[str]:
    return [
        str(path.relative_to(PROTO))
        for package in packages
        for path in sorted((PROTO / package).glob("*.proto"))
    ]


def run_protoc(*arguments: str) -> None:
    includes = [f"-I{PROTO}", f"-I{googleapis()}", f"-I{well_known_types()}"]
    if protoc.main(["protoc", *includes, *arguments]) != 0:
        raise GenerationError("protoc failed")


def run_buf(*arguments: str, cwd: Path = ROOT) -> None:
    command = [str(beside_python("buf")), *arguments]
    if subprocess.run(command, cwd=cwd, check=False).returncode != 0:
        raise GenerationError(f"buf {arguments[0]} failed")


def googleapis() -> Path:
    spec = find_spec("google.api.annotations_pb2")
    if spec is None or spec.origin is None:
        raise GenerationError("googleapis-common-protos is not installed")
    return Path(spec.origin).parents[2]


def well_known_types() -> Path:
    return Path(protoc.__file__).parent / "_proto"


def beside_python(program: str) -> Path:
    """Return a program of the environment that runs this, whether or not it is activated."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        raise GenerationError(f"{path} is missing; install requirements/dev.txt")
    return path


def read_if_there(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
