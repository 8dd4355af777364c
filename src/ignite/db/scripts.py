"""Where the migrations are."""

from pathlib import Path


def scripts() -> Path:
    """Return the folder of migrations: in the wheel below this package, else the repository's."""
    packaged = Path(__file__).parent / "migrations"
    return packaged if packaged.exists() else Path(__file__).parents[3] / "migrations"
