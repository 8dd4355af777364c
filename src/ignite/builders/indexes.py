"""Which package index compiles use: the setting, else what pip is set to for the whole machine."""

import configparser
from collections.abc import Sequence
from pathlib import Path

from ignite.settings import BuildSettings

_PIP_FILES = (Path("/etc/pip.conf"), Path("/etc/xdg/pip/pip.conf"))


def configured_index(settings: BuildSettings, files: Sequence[Path] = _PIP_FILES) -> str:
    """Return the URL of the index, "" for the default one. It may hold a password: never log it."""
    if settings.index_url is not None:
        return settings.index_url.get_secret_value()
    for path in files:
        config = configparser.RawConfigParser()
        try:
            config.read_string(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error):
            continue
        for section in ("install", "global"):
            url = config.get(section, "index-url", fallback="").strip()
            if url:
                return url
    return ""
