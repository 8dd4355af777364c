"""Whether containers can be run here."""

import functools
import subprocess


@functools.cache
def docker_answers() -> bool:
    """Tell whether a Docker daemon answers."""
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
