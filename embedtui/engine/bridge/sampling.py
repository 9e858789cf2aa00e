"""The sample: rows drawn over the table are embedded as the backfill does it, whose first rows they are."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from psycopg import errors

from embedtui.arrays import np
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.pacing import Pacer
from embedtui.engine.backfill.packing import Limits, pack
from embedtui.engine.backfill.stages import make_row_embedder
from embedtui.engine.backfill.writing import ReplyWriter
from embedtui.engine.bridge.maps import Rows
from embedtui.engine.bridge.measuring import POOL
from embedtui.model import Key, Migration, PlacementKind, Side, TableName
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.both import row_vectors
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.sides.sampling import Drawn, draw, old_vectors, spread
from embedtui.postgres.state.bridges import read_sample, store_sample
from embedtui.postgres.state.shards import Shard, plan_shards, shards_of
from embedtui.postgres.state.stale import marks_among

T = TypeVar("T")

ROWS_PER_DIMENSION = 3
"""Rows of a sample, by the larger model's dimensions: at twice as many rows a map keeps most of what it can."""
ROWS = (1_500, 20_000)
"""But no fewer, and no more: what a map gains by more is small, and memory goes by rows."""
_CHUNK = 1_000
"""Rows that are read, embedded and stored before more are drawn; bounds memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Both vectors of the rows of the sample, and old vectors of other rows."""

    new: Rows
    old: Rows
    others: Rows
    embedded: int
    """Rows embedded for it now; all others had their new vector already."""


def sample_size(migration: Migration, wanted: int | None) -> int:
    """Rows to draw: as wanted, else by the models' dimensions."""
    if wanted is not None:
        return wanted
    larger = max(migration.old_model.dimensions, migration.new_model.dimensions)
    return max(ROWS[0], min(ROWS[1], ROWS_PER_DIMENSION * larger))


class Sampler:
    """Draws the sample, embeds what of it has no new vector, and reads both vectors."""

    def __init__(self, job: Job, environ: Mapping[str, str], note: Callable[[str], None] = lambda _: None) -> None:
        """``note`` is told how far it is."""
        self._job, self._migration, self._note = job, job.migration, note
        self._stop = job.child_stop()
        self._pacer = Pacer(job.dsn, job.migration)
        job.follow_pacer(lambda: self._pacer.hold, lambda: self._pacer.in_flight)
        self._embedder = make_row_embedder(job.migration.new_model, environ, self._pacer, job, urgent=True)
        self._link = job.link("bridge", statement_timeout_ms=0)
        self._writer = ReplyWriter(job, self._stop)

    def close(self) -> None:
        """Store what is under way, and close all connections."""
        self._writer.close()
        self._embedder.close()
        self._pacer.close()
        self._link.drop()

    def run(self, size: int) -> Pairs:
        """The pairs of about ``size`` rows, or of all that there are.

        Raises:
            Interrupted: the job was stopped; what was embedded is stored, and counts the next time.
            ConfigurationFault: the provider refuses us as configured.
        """
        threads = self._database(lambda _: self._pacer.max_concurrency)
        drawn = self._drawn(max(size, POOL))
        sample = drawn[:size]
        embedded = 0
        with ThreadPoolExecutor(threads, thread_name_prefix="bridge") as pool:
            for first in range(0, len(sample), _CHUNK):
                self._job.doing(f"embedding the bridge's sample: {first:,} of {len(sample):,} rows")
                chunk = sample[first : first + _CHUNK]
                found = self._database(functools.partial(self._to_embed, drawn=chunk))
                embedded += sum(len(rows) for _, rows in found)
                for done in [pool.submit(self._send, *each) for each in self._requests(found, threads)]:
                    done.result()
                self._note(f"{first + len(chunk):,} of {len(sample):,} rows of the sample have both vectors")
        keys, beside = [each.key for each in sample], [each.key for each in drawn[size:]]
        return self._database(lambda conn: self._read(conn, keys, beside, embedded))

    def _database(self, work: Callable[[Connection], T]) -> T:
        return self._job.with_database(self._link, work)

    def _drawn(self, count: int) -> list[Drawn]:
        """The sample as it was drawn before, and what it lacks; kept before any is embedded.

        What is written moves to other pages, where nobody would draw it again.
        """
        kept = self._database(lambda conn: read_sample(conn, self._migration))
        if len(kept) < count:
            more = list(itertools.islice(self._draw({each.key for each in kept}), count - len(kept)))

            def keep(conn: Connection) -> None:
                with conn.transaction():
                    store_sample(conn, self._migration, more, len(kept))

            try:
                self._database(keep)
            except errors.UniqueViolation:  # somebody else bridges, too: with the same rows, then
                return self._drawn(count)
            kept += more
        return kept[:count]

    def _draw(self, seen: set[Key]) -> Iterator[Drawn]:
        """Other rows, over the whole table; no transaction is open between two."""

        def shards(conn: Connection) -> list[Shard]:
            plan_shards(conn, self._migration.id, self._migration.table_oid)  # the table may have been rewritten
            return shards_of(conn, self._migration)

        table = self._database(shards)
        for turn in itertools.count():
            any_drawn = False
            for batch in spread(table):
                more = functools.partial(draw, migration=self._migration, batch=batch, turn=turn)
                found = self._database(more)
                any_drawn = any_drawn or bool(found)
                new = [each for each in found if each.key not in seen]
                seen.update(each.key for each in new)
                yield from new
            if not any_drawn:
                return

    def _to_embed(self, conn: Connection, drawn: Sequence[Drawn]) -> list[tuple[Shard, list[SourceRow]]]:
        """Rows that have content and no new vector, by the leaf that they are written to."""
        at = {each.key: each for each in drawn}
        by_leaf: dict[TableName, tuple[Shard, list[SourceRow]]] = {}
        for queued in self._job.placement.read_keys(conn, list(at)):
            row, place = queued.row, at.get(queued.asked)
            # what is too long for the model is the backfill's to say
            if place is None or queued.blank or queued.new_present or row.characters > len(row.text):
                continue
            rows = by_leaf.setdefault(place.shard.leaf, (place.shard, []))[1]
            rows.append(replace(row, block=place.page))
        return list(by_leaf.values())

    def _requests(
        self, found: Sequence[tuple[Shard, list[SourceRow]]], threads: int
    ) -> Iterator[tuple[Shard, tuple[SourceRow, ...]]]:
        model = self._migration.new_model
        per_page = 1 if self._migration.placement is PlacementKind.COLUMN else None
        for shard, rows in found:
            limits = Limits.of(model, -(-len(rows) // threads))
            for batch in pack(rows, limits, self._pacer.characters_per_token, per_page=per_page):
                yield shard, batch

    def _send(self, shard: Shard, rows: Sequence[SourceRow]) -> None:
        """Embed rows, and store them as soon as they are: counted with the shard that they are of."""
        try:
            for outcome in self._embedder.embed(rows, self._stop):
                self._writer.store(shard, outcome)
        except BaseException:
            self._stop.set()  # the other requests of the chunk need not be waited for
            raise

    def _read(self, conn: Connection, keys: Sequence[Key], beside: Sequence[Key], embedded: int) -> Pairs:
        migration = self._migration
        new = np.empty((len(keys), migration.new_model.dimensions), np.float32)
        old = np.empty((len(keys), migration.old_model.dimensions), np.float32)
        count = 0
        marked = marks_among(conn, migration.id, [*keys, *beside])
        keys, beside = ([key for key in each if key not in marked] for each in (keys, beside))
        for first in range(0, len(keys), _CHUNK):
            for pair in row_vectors(conn, migration, keys[first : first + _CHUNK]).values():
                new[count], old[count] = pair[Side.NEW], pair[Side.OLD]
                count += 1
        return Pairs(new[:count], old[:count], old_vectors(conn, migration, beside), embedded)
