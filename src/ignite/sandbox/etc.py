"""The /etc of a sandbox: made by us, never the machine's.

The machine's own holds shadow, keys, host names and whatever an administrator put there. A sandbox
gets what libc asks for: its one user, its own host name and, where it has a network, resolvers and
the certificates to check servers with.
"""

import shutil
from pathlib import Path

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

_FILES = {
    "passwd": "",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost ignite\n::1 localhost\n",
    "hostname": "ignite\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_BUNDLES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
)


def write_etc(
    folder: Path, *, has_network: bool, resolver: str = "", system: Path = Path("/")
) -> Path:
    """Fill `folder` afresh and return it. Names go through its files; nothing in it is secret.

    `resolver` answers for names there; without one it is the machine's that do.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in _FILES.items():
        (folder / name).write_text(text)
    # Finding libraries without the cache costs a start some milliseconds.
    _copy_if_there(system / "etc/ld.so.cache", folder / "ld.so.cache")
    if has_network:
        if resolver:
            (folder / "resolv.conf").write_text(f"nameserver {resolver}\n")
        else:
            _copy_if_there(system / "etc/resolv.conf", folder / "resolv.conf")
        certificates = folder / CA_BUNDLE.removeprefix("/etc/")
        certificates.parent.mkdir(parents=True)
        for bundle in _BUNDLES:
            if _copy_if_there(system / bundle, certificates):
                break
    _open_for_all(folder)
    return folder


def write_passwd(path: Path, uid: int, *, home: str) -> Path:
    """Write the passwd file of the one user `uid`."""
    path.write_text(f"root:x:0:0:root:/:/usr/sbin/nologin\napp:x:{uid}:{uid}:app:{home}:/bin/sh\n")
    path.chmod(0o644)
    return path


def _copy_if_there(source: Path, target: Path) -> bool:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        return False
    return True


def _open_for_all(folder: Path) -> None:
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
