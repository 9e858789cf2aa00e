"""Rows drawn over the table, kept in their order, and both vectors of those that have them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from psycopg import errors

from embedtui.arrays import np
from embedtui.engine.backfill.job import Job
from embedtui.engine.bridge.maps import Rows
from embedtui.model import Key, Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.both import count_both, row_vectors
from embedtui.postgres.sides.sampling import Drawn, draw, old_vectors, spread
from embedtui.postgres.state.bridges import read_sample, store_sample
from embedtui.postgres.state.queue import queued_among
from embedtui.postgres.state.shards import Shard, plan_shards, shards_of
from embedtui.postgres.state.stale import marks_among

T = TypeVar("T")

CHUNK = 1_000
"""Rows that are read (or embedded and stored) before more are; bounds memory."""
MOST_ROWS = 20_000
"""Of a sample: what a map gains by more is small, and memory goes by rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Both vectors of the rows of the sample, and old vectors of other rows."""

    new: Rows
    old: Rows
    others: Rows
    embedded: int = 0
    """Rows embedded for it now; all others had their new vector already."""


class Drawing:
    """Draws rows and reads their vectors; pays for nothing."""

    def __init__(self, job: Job) -> None:
        """Of the job's migration, by a connection of its own."""
        self._job, self._migration = job, job.migration
        self._link = job.link("bridge", statement_timeout_ms=0)

    def close(self) -> None:
        """Close the connection."""
        self._link.drop()

    def count(self, size: int) -> int:
        """How many of ``size`` rows have both vectors."""
        keys = [each.key for each in self._drawn(size)]
        return self.database(lambda conn: count_both(conn, self._migration, keys))

    def pairs(self, size: int) -> Pairs:
        """The pairs of those of ``size`` rows that have both vectors, in the order in which they were drawn."""
        drawn = self._drawn(size)
        return self.database(lambda conn: self._read(conn, [each.key for each in drawn], ()))

    def database(self, work: Callable[[Connection], T]) -> T:
        """Work on the connection; a lost one is waited out."""
        return self._job.with_database(self._link, work)

    def _drawn(self, count: int) -> list[Drawn]:
        """The sample as it was drawn before, and what it lacks; kept before any is embedded.

        What is written moves to other pages, where nobody would draw it again.
        """
        kept = self.database(lambda conn: read_sample(conn, self._migration))
        if len(kept) < count:
            more = list(itertools.islice(self._draw({each.key for each in kept}), count - len(kept)))

            def keep(conn: Connection) -> None:
                with conn.transaction():
                    store_sample(conn, self._migration, more, len(kept))

            try:
                self.database(keep)
            except errors.UniqueViolation:  # somebody else bridges, too: with the same rows, then
                return self._drawn(count)
            kept += more
        return kept[:count]

    def _draw(self, seen: set[Key]) -> Iterator[Drawn]:
        """Other rows, over the whole table; no transaction is open between two."""

        def shards(conn: Connection) -> list[Shard]:
            plan_shards(conn, self._migration.id, self._migration.table_oid)  # the table may have been rewritten
            return shards_of(conn, self._migration)

        table = self.database(shards)
        for turn in itertools.count():
            any_drawn = False
            for batch in spread(table):
                more = functools.partial(draw, migration=self._migration, batch=batch, turn=turn)
                found = self.database(more)
                any_drawn = any_drawn or bool(found)
                new = [each for each in found if each.key not in seen]
                seen.update(each.key for each in new)
                yield from new
            if not any_drawn:
                return

    def _read(self, conn: Connection, keys: Sequence[Key], beside: Sequence[Key]) -> Pairs:
        migration = self._migration
        new = np.empty((len(keys), migration.new_model.dimensions), np.float32)
        old = np.empty((len(keys), migration.old_model.dimensions), np.float32)
        count = 0
        for first in range(0, len(keys), CHUNK):
            chunk = keys[first : first + CHUNK]
            with conn.transaction():  # of one moment: what is edited meanwhile is noted with its vectors
                conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                both = row_vectors(conn, migration, chunk)
                for key in {*marks_among(conn, migration.id, chunk), *queued_among(conn, migration.id, chunk)}:
                    both.pop(key, None)
            for key in chunk:
                if key in both:
                    new[count], old[count] = both[key][Side.NEW], both[key][Side.OLD]
                    count += 1
        marked = marks_among(conn, migration.id, beside)
        return Pairs(new[:count], old[:count], old_vectors(conn, migration, [k for k in beside if k not in marked]))
