"""The sample: rows drawn over the table are embedded as the backfill does it, whose first rows they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.pacing import Pacer
from embedtui.engine.backfill.packing import Limits, pack
from embedtui.engine.backfill.stages import make_row_embedder
from embedtui.engine.backfill.writing import ReplyWriter
from embedtui.engine.bridge.drawing import CHUNK, MOST_ROWS, Drawing, Pairs
from embedtui.engine.bridge.measuring import POOL
from embedtui.model import Migration, PlacementKind, TableName
from embedtui.model.bridge import DOING
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.sides.sampling import Drawn
from embedtui.postgres.state.shards import Shard

ROWS_PER_DIMENSION = 3
"""Rows of a sample, by the larger model's dimensions: at twice as many rows a map keeps most of what it can."""
LEAST_DRAWN = 1_500
"""But no fewer."""


def sample_size(migration: Migration, wanted: int | None) -> int:
    """Rows to draw: as wanted, else by the models' dimensions."""
    if wanted is not None:
        return wanted
    larger = max(migration.old_model.dimensions, migration.new_model.dimensions)
    return max(LEAST_DRAWN, min(MOST_ROWS, ROWS_PER_DIMENSION * larger))


class Sampler(Drawing):
    """Draws the sample, embeds what of it has no new vector, and reads both vectors."""

    def __init__(self, job: Job, environ: Mapping[str, str], note: Callable[[str], None] = lambda _: None) -> None:
        """``note`` is told how far it is."""
        super().__init__(job)
        self._note = note
        self._stop = job.child_stop()
        self._pacer = Pacer(job.dsn, job.migration)
        job.follow_pacer(lambda: self._pacer.hold, lambda: self._pacer.in_flight)
        self._embedder = make_row_embedder(job.migration.new_model, environ, self._pacer, job, urgent=True)
        self._writer = ReplyWriter(job, self._stop)

    def close(self) -> None:
        """Store what is under way, and close all connections."""
        self._writer.close()
        self._embedder.close()
        self._pacer.close()
        super().close()

    def run(self, size: int) -> Pairs:
        """The pairs of about ``size`` rows, or of all that there are.

        Raises:
            Interrupted: the job was stopped; what was embedded is stored, and counts the next time.
            ConfigurationFault: the provider refuses us as configured.
        """
        threads = self.database(lambda _: self._pacer.max_concurrency)
        drawn = self._drawn(max(size, POOL))
        sample = drawn[:size]
        embedded = 0
        with ThreadPoolExecutor(threads, thread_name_prefix="bridge") as pool:
            for first in range(0, len(sample), CHUNK):
                chunk = sample[first : first + CHUNK]
                found = self.database(functools.partial(self._to_embed, drawn=chunk))
                left = sum(len(rows) for _, rows in found)
                embedded += left
                sent = {pool.submit(self._send, at, rows): len(rows) for at, rows in self._requests(found, threads)}
                self._say(first + len(chunk) - left, len(sample))
                for done in as_completed(sent):
                    done.result()
                    left -= sent[done]
                    self._say(first + len(chunk) - left, len(sample))
                self._note(f"{first + len(chunk):,} of {len(sample):,} rows of the sample have both vectors")
        keys, beside = [each.key for each in sample], [each.key for each in drawn[size:]]
        return replace(self.database(lambda conn: self._read(conn, keys, beside)), embedded=embedded)

    def _say(self, done: int, total: int) -> None:
        self._job.doing(f"{DOING}embedding the sample, {done:,} of {total:,} rows")

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
