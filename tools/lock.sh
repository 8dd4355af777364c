#!/usr/bin/env bash
# Resolve pyproject.toml into hash-pinned requirements: lock.sh UV
# The server's are a subset of the developer's, so that both machines run the same versions.
set -euo pipefail

cd "$(dirname "$0")/.."
flags=(--quiet --generate-hashes --no-emit-index-url --python-version 3.11
  --custom-compile-command "make lock")
"$1" pip compile pyproject.toml --extra server --extra kubernetes --extra build --extra dev \
  "${flags[@]}" --output-file requirements/dev.txt
"$1" pip compile pyproject.toml --extra server --extra build --constraint requirements/dev.txt \
  "${flags[@]}" --output-file requirements/server.txt
