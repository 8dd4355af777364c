"""Statements of SQLAlchemy Core on a connection of asyncpg, without SQLAlchemy's engine between.

Core writes the SQL; asyncpg prepares it, binds the values and reads the rows. The engine's way cost
0.8 ms of CPU a statement, this one 0.1 for a statement made once (`prepared`) and 0.3 for one made
anew (`docs/decisions/0010-core-on-asyncpg.md`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from ignite.db.pool import Driver

_DIALECT = dialect()  # type: ignore[no-untyped-call]  # untyped there

Row: TypeAlias = asyncpg.Record


class Prepared:
    """The SQL of a statement. Its free parameters (`bindparam`) are given at each execution."""

    __slots__ = ("_fixed", "_names", "sql")

    def __init__(self, statement: ClauseElement) -> None:
        compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
        assert isinstance(compiled, SQLCompiler)
        self.sql = compiled.string
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._fixed = dict(compiled.params)

    def arguments(self, given: Mapping[str, object]) -> list[object]:
        """Return the values in the order of the SQL's places."""
        fixed = self._fixed
        return [given[name] if name in given else fixed[name] for name in self._names]


def prepared(statement: ClauseElement) -> Prepared:
    """Return `statement` made once and for all, for calls that are many."""
    return Prepared(statement)


class Rows:
    """The rows that a statement gave; each is a mapping from column to value."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def all(self) -> Sequence[Row]:
        """Return them all."""
        return self._rows

    def one(self) -> Row:
        """Return the only row; raises LookupError where there is another number of them."""
        if len(self._rows) != 1:
            raise LookupError(f"one row was expected, there are {len(self._rows)}")
        return self._rows[0]

    def one_or_none(self) -> Row | None:
        """Return the only row, or None."""
        return self.one() if self._rows else None

    def scalars(self) -> tuple[Any, ...]:
        """Return the first column of every row."""
        return tuple(row[0] for row in self._rows)

    def scalar_one(self) -> Any:
        """Return the first column of the only row."""
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        """Return the first column of the only row, or None."""
        return self.one()[0] if self._rows else None


class Connection:
    """Executes statements on one connection."""

    __slots__ = ("_driver",)

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def execute(
        self,
        statement: ClauseElement | Prepared,
        values: Mapping[str, object] | None = None,
    ) -> Rows:
        """Execute a statement; return its rows. Raises what asyncpg raises."""
        ready = statement if isinstance(statement, Prepared) else Prepared(statement)
        return Rows(await self._driver.fetch(ready.sql, *ready.arguments(values or {})))

    async def command(self, word: str) -> str:
        """Execute a command without values; return what Postgres calls what it did."""
        done: str = await self._driver.execute(word)
        return done

    async def execute_many(self, statement: Prepared, rows: Sequence[Mapping[str, object]]) -> None:
        """Execute a statement once for each of `rows`, in one go."""
        await self._driver.executemany(statement.sql, [statement.arguments(row) for row in rows])
