#!/usr/bin/env bash
# Install grpcurl at a pinned version, for the tests and the tour: grpcurl.sh FOLDER
# Built from source by Go's own checksummed modules; without Go those tests skip, by name.
set -euo pipefail

version=v1.9.3
folder=$(cd "$1" && pwd)
[ ! -x "$folder/grpcurl" ] || exit 0
if ! command -v go >/dev/null; then
  echo "grpcurl is left out: there is no Go to build it." >&2
  exit 0
fi
echo "Building grpcurl $version" >&2
GOBIN=$folder GOFLAGS=-mod=mod go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version"
