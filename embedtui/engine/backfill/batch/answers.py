"""Stores what batch jobs answered, line by line: with the live reply's guards, and counted once however often read."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedtui.arrays import np
from embedtui.engine.backfill.embedding import Outcome
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.writing import ReplyWriter
from embedtui.errors import Interrupted
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.state.batches import BatchJob, StoredLine, load_line, settle_line
from embedtui.providers import ProviderFault
from embedtui.providers.batches import OutputLine
from embedtui.providers.replies import parse_payload, plausible_tokens, usable, usage_of

if TYPE_CHECKING:
    from embedtui.providers.openai_batches import OpenAIBatches

KEPT_LINES = 32
"""Lines whose rows the application had locked, tried once more at the end; bounds memory."""
LOCK_SECONDS = 1.0
"""How long such rows are left alone."""
BYTES_PER_TOKEN = 4
"""Where the answer does not count its tokens."""


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    line: StoredLine
    outcome: Outcome
    stored: int
    whole: bool


class Answers:
    """Reads the files of one job after the other; for one thread."""

    def __init__(self, job: Job, writer: ReplyWriter, client: OpenAIBatches, stop: threading.Event) -> None:
        self._job, self._writer, self._client, self._stop = job, writer, client, stop
        self._half = job.migration.vector_type == "halfvec"

    def take(self, batch: BatchJob, file: str, inputs: int) -> int:
        """Store what an output or error file says, and count it; lines that were broken or of another job.

        Read again after an interruption, it goes on with what is not stored yet.

        Raises:
            ProviderFault: the file could not be read to its end.
            Interrupted: the work was stopped.
        """
        strange = 0
        kept: list[_Kept] = []
        for line in self._client.read(file, str(batch.token), inputs, self._stop):
            self._job.wait_while_held(self._stop)
            if self._stop.is_set():
                raise Interrupted("Stopped.", hint="Run again to go on.")
            if line is None:
                strange += 1
                continue
            left = self._store(batch, line)
            if left is not None and len(kept) < KEPT_LINES:
                kept.append(left)
        if kept:
            self._stop.wait(LOCK_SECONDS)
        for each in kept:
            rows = self._writer.store(each.line.shard, each.outcome)
            self._settle(batch, each.number, 0, rows, over=each.whole and each.stored + rows == len(each.outcome.rows))
        return strange

    def _store(self, batch: BatchJob, line: OutputLine) -> _Kept | None:
        """Store one line; given back where rows of it could not be written, perhaps for they were locked."""
        stored = self._writer.on_connection(
            lambda conn: load_line(conn, batch, line.number, self._job.migration.table_oid)
        )
        if stored is None:
            return None
        if line.payload is None:
            if line.answered:
                self._settle(batch, line.number, 0, 0, over=False)
            return None
        count = len(stored.keys)
        tokens = plausible_tokens(usage_of(line.payload, self._job.migration.new_model), count, stored.bytes)
        if tokens is None:
            tokens = stored.bytes // BYTES_PER_TOKEN + count
        try:
            parsed = parse_payload(line.payload, count, self._job.migration.new_model)
        except ProviderFault:  # paid for, and nothing to be had from it
            self._settle(batch, line.number, tokens, 0, over=False)
            return None
        vectors = parsed.vectors
        good = usable(vectors)
        if self._half:
            with np.errstate(over="ignore", under="ignore"):
                good &= usable(vectors.astype(np.float16).astype(np.float32))
        places = np.flatnonzero(good)
        rows = tuple(SourceRow(stored.keys[place], 0, stored.sources[place], "", 0) for place in places)
        if not rows:
            self._settle(batch, line.number, tokens, 0, over=False)
            return None
        outcome = Outcome(rows, np.ascontiguousarray(vectors[places]))
        written = self._writer.store(stored.shard, outcome)
        self._settle(batch, line.number, tokens, written, over=written == count)
        short = written < len(rows) and not stored.counted
        return _Kept(line.number, stored, outcome, written, len(rows) == count) if short else None

    def _settle(self, batch: BatchJob, number: int, tokens: int, rows: int, *, over: bool) -> None:
        self._writer.on_connection(lambda conn: settle_line(conn, batch, number, tokens=tokens, rows=rows, over=over))
