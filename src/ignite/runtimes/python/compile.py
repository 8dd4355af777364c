"""Compiles a Python app inside the build sandbox: check the handler, bundle what it needs.

Runs under the interpreter that the app will run on (3.9 to 3.13), standard library alone. What it
prints is the build log. Exit codes tell the recipe why it failed; see `recipe.FAILURES`.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import os
import re
import shutil
import subprocess
import sys
from py_compile import PycInvalidationMode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

ENTRY = "handler.py"
REQUIREMENTS = "requirements.txt"
DEPENDENCIES = ".deps"
APP_DIR = "/app"

SOURCE_INVALID = 10
DEPENDENCIES_FAILED = 11
ARTIFACT_TOO_LARGE = 12

_COMMENT = re.compile(r"\s*(#.*)?")


class Failed(Exception):
    """The app cannot be compiled; `code` is the exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> None:
    """Compile what the arguments name."""
    parser = argparse.ArgumentParser()
    for name in ("source", "output", "cache", "uv"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--max-bytes", type=int, required=True)
    options = parser.parse_args()
    try:
        compile_app(options)
    except Failed as failed:
        _fail(failed)


def compile_app(options: argparse.Namespace) -> None:
    """Make the artifact in `options.output`; raises Failed."""
    check_entry(options.source)
    version = "{}.{}.{}".format(*sys.version_info)
    _say(f"Python {version}")
    shutil.copytree(
        options.source,
        options.output,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    _check_size(options)
    if _has_requirements(options.output):
        _install(options)
        _check_size(options)
    _compile_bytecode(options.output)
    size, count = _check_size(options)
    _say(f"artifact: {count} files, {size} bytes")


def check_entry(source: str) -> None:
    """Refuse a handler.py that cannot be parsed or defines no `handler`, before anything is run."""
    path = os.path.join(source, ENTRY)
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), ENTRY)
    except FileNotFoundError:
        raise Failed(SOURCE_INVALID, f"there is no {ENTRY} at the root") from None
    except SyntaxError as error:
        where = f"{ENTRY}:{error.lineno}" if error.lineno else ENTRY
        text = f"{where}: {type(error).__name__}: {error.msg}"
        shown = (error.text or "").rstrip()
        raise Failed(SOURCE_INVALID, f"{text}\n    {shown.strip()}" if shown else text) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Failed(SOURCE_INVALID, f"{ENTRY}: {error}") from None
    if os.path.exists(os.path.join(source, "handler", "__init__.py")):
        raise Failed(SOURCE_INVALID, f"the package handler/ hides {ENTRY}")
    names = set(_bound_names(tree.body))
    if "handler" not in names and "*" not in names:
        raise Failed(SOURCE_INVALID, f"{ENTRY} has no top-level function named handler")


def _bound_names(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that a module binds, "*" where an import hides which."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                yield alias.asname or alias.name
        else:
            for child in ast.walk(node):
                if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                    yield child.id
            for part in ("body", "orelse", "finalbody"):
                yield from _bound_names(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _bound_names(handler.body)


def _has_requirements(folder: str) -> bool:
    try:
        with open(os.path.join(folder, REQUIREMENTS), encoding="utf-8", errors="replace") as file:
            return any(not _COMMENT.fullmatch(line.strip()) for line in file)
    except FileNotFoundError:
        return False


def _install(options: argparse.Namespace) -> None:
    command = [
        *(options.uv, "pip", "install", "--no-config", "--no-progress", "--color", "never"),
        *("--python", sys.executable, "--no-python-downloads"),
        *("--target", os.path.join(options.output, DEPENDENCIES), "--link-mode", "copy"),
        *("--cache-dir", os.path.join(options.cache, "uv")),
        *("--requirements", REQUIREMENTS),
    ]
    _say(f"installing {REQUIREMENTS}")
    # From the source's folder: relative paths in the file are relative to it.
    try:
        code = subprocess.call(command, cwd=options.source, stdin=subprocess.DEVNULL)
    except OSError as error:
        text = f"this machine cannot install packages: uv: {error.strerror}"
        raise Failed(DEPENDENCIES_FAILED, text) from None
    if code:
        raise Failed(DEPENDENCIES_FAILED, f"the packages of {REQUIREMENTS} could not be installed")
    lock = os.path.join(options.output, DEPENDENCIES, ".lock")
    if os.path.exists(lock):
        os.unlink(lock)


def _compile_bytecode(folder: str) -> None:
    """Write .pyc files that are never checked against their source: an artifact does not change."""
    own = re.compile(re.escape(os.path.join(folder, DEPENDENCIES)))
    _compile_folder(folder, own, quiet=1)
    dependencies = os.path.join(folder, DEPENDENCIES)
    if os.path.isdir(dependencies):
        # Packages carry files for other versions on purpose; that these fail says nothing.
        _compile_folder(dependencies, None, quiet=2, inner=f"{APP_DIR}/{DEPENDENCIES}")


def _compile_folder(
    folder: str, without: re.Pattern[str] | None, *, quiet: int, inner: str = APP_DIR
) -> None:
    compileall.compile_dir(
        folder,
        maxlevels=64,
        rx=without,
        quiet=quiet,
        stripdir=folder,
        prependdir=inner,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    sys.stdout.flush()


def _check_size(options: argparse.Namespace) -> tuple[int, int]:
    """Return size and number of the artifact's files; refuses one over its bound."""
    size = count = 0
    for folder, _, names in os.walk(options.output):
        for name in names:
            size += os.lstat(os.path.join(folder, name)).st_size
            count += 1
    if size > options.max_bytes:
        raise Failed(
            ARTIFACT_TOO_LARGE,
            f"the artifact has {size} bytes, over the bound of {options.max_bytes}",
        )
    return size, count


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _fail(failed: Failed) -> NoReturn:
    sys.stderr.write(f"{failed}\n")
    sys.stderr.flush()
    sys.exit(failed.code)


if __name__ == "__main__":
    main()
