"""Leases: how one worker owns a row for a while (`docs/concurrency.md`).

The clock is Postgres' own. A result is written only where the token still matches.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Owns one row until it expires or is lost."""

    row_id: str
    token: str
