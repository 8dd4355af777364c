"""Opening folders that a less trusted process may rename or replace while we look.

The spawner is root and its callers are not, so a path they name is walked from a folder of ours,
one component at a time and never through a link. What comes out is a descriptor: it stays the same
folder, whatever happens to the names.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from ignite.domain.errors import InvalidArgument

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def components_below(
    path: str, roots: Sequence[Path], *, field: str
) -> tuple[Path, tuple[str, ...]]:
    """Return the root that `path` lies below and the names from there; refuses anything else."""
    parts = Path(path).parts
    if "\0" in path or ".." in parts or str(Path(path)) != path:
        raise InvalidArgument("must be a plain absolute path", field=field)
    for root in roots:
        above = root.absolute().parts
        if parts[: len(above)] == above and len(parts) > len(above):
            return root.absolute(), parts[len(above) :]
    raise InvalidArgument("lies outside the folders of this installation", field=field)


def open_folder(path: str, roots: Sequence[Path], *, field: str) -> int:
    """Open a folder strictly below one of `roots` without following any link below it."""
    root, names = components_below(path, roots, field=field)
    try:
        current = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for name in names:
            above = current
            try:
                current = os.open(name, _FOLDER, dir_fd=above)
            finally:
                os.close(above)
    except OSError as error:
        raise InvalidArgument(f"is not a folder: {error.strerror}", field=field) from error
    return current


def open_parent(path: str, roots: Sequence[Path], *, field: str) -> tuple[int, str]:
    """Open the folder that holds `path`, which may not exist yet; return it and the last name."""
    root, names = components_below(path, roots, field=field)
    if len(names) == 1:
        return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), names[0]
    return open_folder(str(Path(path).parent), roots, field=field), names[-1]
