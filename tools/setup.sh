#!/usr/bin/env bash
# Make the virtual environment fit the locked requirements: setup.sh server|dev PYTHON VENV
# What the system lacks is installed where that is possible and named in one line where it is not.
set -euo pipefail

what=$1 python=$2 venv=$3
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

python_is_new_enough() {
  "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null
}

missing_packages() {
  local path="$PATH:/usr/sbin:/sbin"
  PATH=$path command -v bwrap >/dev/null || echo bubblewrap
  PATH=$path command -v nft >/dev/null || echo nftables
  PATH=$path command -v ip >/dev/null || echo iproute2
  PATH=$path ldconfig -p 2>/dev/null | grep -q 'libseccomp\.so\.2' || echo libseccomp2
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  if [ ! -x "$venv/bin/python" ]; then
    command -v "$python" >/dev/null || echo python3
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
  fi
}

install_packages() {
  local packages=("$@") root=()
  local line="apt-get install -y --no-install-recommends ${packages[*]}"
  [ "$(id -u)" = 0 ] || root=(sudo -n)
  if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; }; then
    say "Missing system packages; where you may, run: sudo $line"
    return
  fi
  say "Installing system packages: ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  if ! { ${root[@]+"${root[@]}"} apt-get update -qq &&
    ${root[@]+"${root[@]}"} $line -qq >/dev/null; }; then
    say "That failed; run it yourself: $line"
  fi
}

mapfile -t packages < <(missing_packages)
[ ${#packages[@]} -eq 0 ] || install_packages "${packages[@]}"

if [ ! -x "$venv/bin/python" ]; then
  if ! python_is_new_enough "$python"; then
    say "Ignite needs Python 3.11 or newer; $python is $("$python" -V 2>&1 || true)." \
      "Name another: make PYTHON=/path/to/python3.11 run"
    exit 1
  fi
  say "Creating $venv"
  "$python" -m venv "$venv"
elif ! python_is_new_enough "$venv/bin/python"; then
  say "$venv has a Python older than 3.11; remove it and run this again."
  exit 1
fi

pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet)
say "Installing requirements/$what.txt"
"${pip[@]}" --require-hashes -r "requirements/$what.txt"
"${pip[@]}" --no-deps --no-build-isolation -e .
touch "$venv/.server"
[ "$what" != dev ] || touch "$venv/.dev"
