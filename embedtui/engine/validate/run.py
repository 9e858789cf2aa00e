"""How a comparison is made: its options, and what every step of one run needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import sql

from embedtui.errors import Interrupted
from embedtui.formatting import counted
from embedtui.model import Migration, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.protocol import Vectors
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
    iterative_scan: str = ""
    """As the application searches, see :func:`embedtui.postgres.sides.search.search_sql`."""
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
