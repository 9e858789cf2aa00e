"""How a comparison is made: its options, and what every step of one run needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from psycopg import sql

from embedtui.errors import Interrupted
from embedtui.formatting import counted
from embedtui.model import Migration, Side
from embedtui.postgres.catalog.server import vector_version
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes.existing import search_type
from embedtui.postgres.names import escaped
from embedtui.postgres.sides.both import other_present_sql
from embedtui.postgres.sides.protocol import Vectors
from embedtui.postgres.sides.search import scan_of, search_sql
from embedtui.postgres.state.queries import StoredQuery

Connect = Callable[[], Connection]
"""Opens a connection in autocommit; who opens it closes it."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many of how many; must return at once."""

JUDGED_DEPTH = 10
"""Depth of the judged measures, whatever k is shown."""

EXACT_BYTES = 2 << 30
"""Tables up to this size (TOAST included) are read once for exact search; beyond, a sample of queries is searched."""


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How a comparison searches, and what is kept of it."""

    k: int = 10
    """Results per query."""
    where: str = ""
    """The application's filter on its table, trusted SQL; part of both searches."""
    source: str = ""
    """Where the queries come from, kept with them."""
    iterative_scan: str | None = None
    """As the application searches, see :func:`embedtui.postgres.sides.search.search_sql`; None: as the Router does."""
    exact_timeout: float = 60.0
    """Seconds that exact search, and search by index, may each take."""
    exact_bytes: int = EXACT_BYTES
    """Largest table that is read once for exact search."""
    again: bool = False
    """Measure even if the recorded comparison is still that of this state."""


@dataclass(frozen=True, slots=True)
class Run:
    """What every step of one comparison needs."""

    migration: Migration
    options: CompareOptions
    progress: Progress
    stop: threading.Event
    pgvector: str = ""
    """Version of the extension where it is searched."""
    casts: Mapping[Side, str] = field(default_factory=dict)
    """The type that each side's index casts its vectors to, empty for none."""

    def prepared(self, conn: Connection) -> Run:
        """This run as the database that is searched has it: what serves there, and how it can be asked."""
        casts = {side: search_type(conn, self.migration, side) for side in Side}
        return replace(self, pgvector=vector_version(conn), casts=casts)

    def statement(
        self, side: Side, *, both: bool = False, exact: bool = False, without_key: bool = False
    ) -> sql.Composed:
        """The search of one side, as the Router makes it; ``both``: only rows that have both vectors."""
        conditions: list[sql.Composable] = []
        if self.where is not None:
            conditions.append(sql.SQL("({})").format(escaped(self.where)))
        if both:
            conditions.append(other_present_sql(self.migration, side))
        asked = self.options.iterative_scan
        return search_sql(
            self.migration,
            side,
            where=sql.SQL(" AND ").join(conditions) if conditions else None,
            exact=exact,
            without_key=without_key,
            iterative_scan=scan_of(self.pgvector, filtered=bool(conditions) or self.migration.scope is not None)
            if asked is None
            else asked,
            cast_to=self.casts.get(side, ""),
        )

    @property
    def where(self) -> sql.SQL | None:
        """The application's filter, if any."""
        return sql.SQL(self.options.where) if self.options.where.strip() else None

    @property
    def depth(self) -> int:
        """Results per search: enough for what is shown and for the judged measures."""
        return max(self.options.k, JUDGED_DEPTH)

    def step(self, what: str, done: int, total: int) -> None:
        """Tell how far it is.

        Raises:
            Interrupted: ``stop`` was set.
        """
        if self.stop.is_set():
            raise Interrupted("The comparison was stopped; query vectors made so far are kept.")
        self.progress(what, done, total)


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries that can be compared, with their vectors (n, d) of each side in the same order."""

    queries: tuple[StoredQuery, ...]
    vectors: dict[Side, Vectors]

    def __len__(self) -> int:
        """How many."""
        return len(self.queries)


def count_queries(queries: Sequence[object] | Queries) -> str:
    """``1 query``, ``300 queries``."""
    return counted(len(queries), "query", "queries")
