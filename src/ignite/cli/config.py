"""The configuration file of the command line: YAML, keys under `ignite` with `global` behind.

`config.yaml` in the first folder that has one; tokens are in it, so it is written for its owner
alone.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ignite.cli.failures import Failure, WrongUse
from ignite.cli.flags import Flags, reason_of

FILE = "config.yaml"
KEYS = ("org_id", "org_name", "token", "api_endpoint", "http_endpoint")
SECRET_KEYS = ("token", "service_account_secret")
ALL_KEYS = (*KEYS, "service_account_id", "service_account_secret")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the file says, and where it is or would be written."""

    path: Path
    ignite: Mapping[str, str]
    shared: Mapping[str, str]

    def get(self, key: str) -> str | None:
        """Return `ignite.<key>`, else `global.<key>`, else None."""
        return self.ignite.get(key) or self.shared.get(key) or None

    def view(self) -> dict[str, str]:
        """Return every known key that is set, credentials shortened."""
        found = {key: self.get(key) or "" for key in ALL_KEYS}
        return {
            key: _shortened(value) if key in SECRET_KEYS else value
            for key, value in found.items()
            if value
        }


def load(flags: Flags) -> Config:
    """Read the first configuration file there is; none is an empty one."""
    path = _path(flags)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config(path=path, ignite={}, shared={})
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {path}: {reason_of(error)}") from error
    tree = _parse(text, path)
    return Config(path=path, ignite=_section(tree, "ignite"), shared=_section(tree, "global"))


def save(config: Config, changes: Mapping[str, str]) -> None:
    """Write `changes` under `ignite`; an empty value removes the key. Other content stays."""
    try:
        tree = _parse(config.path.read_text(encoding="utf-8"), config.path)
    except FileNotFoundError:
        tree = {}
    section = {**_section(tree, "ignite"), **changes}
    tree["ignite"] = {key: value for key, value in section.items() if value}
    temporary = config.path.with_name(f".{config.path.name}.{os.getpid()}")
    try:
        config.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            yaml.safe_dump(tree, file, sort_keys=True)
        temporary.replace(config.path)
    except OSError as error:
        raise Failure(f"cannot write {config.path}: {reason_of(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_key(key: str) -> str:
    """Return the key without its prefix; refuse one that nothing reads."""
    short = key.removeprefix("ignite.")
    if short not in KEYS:
        raise WrongUse(f"unknown key {key!r}; known: {', '.join(KEYS)}")
    return short


def _path(flags: Flags) -> Path:
    if flags.config is not None:
        return flags.config
    if flags.config_dir is not None:
        return flags.config_dir / FILE
    home = Path.home()
    folders = (
        home / ".config" / "unified-cli",
        home / ".config" / "dodil",
        home / ".ignite",
    )
    paths = [folder / FILE for folder in folders]
    return next((path for path in paths if path.is_file()), paths[0])


def _parse(text: str, path: Path) -> dict[str, object]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Failure(f"{path} is not YAML") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise Failure(f"{path} must hold a mapping")
    return tree


def _section(tree: Mapping[str, object], name: str) -> dict[str, str]:
    section = tree.get(name)
    if not isinstance(section, dict):
        return {}
    return {str(key): str(value) for key, value in section.items() if value is not None}


def _shortened(value: str) -> str:
    return f"{value[:4]}…" if len(value) > 12 else "…"
