"""Fills the file of a batch job with rows: whole block ranges, so that a shard is in one job or in none."""

from __future__ import annotations

import functools
import itertools
import json
import math
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO
from uuid import UUID, uuid4

from embedtui.engine.backfill.budget import ESTIMATE_MARGIN
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.packing import Limits, pack
from embedtui.engine.backfill.reading import ShardReader
from embedtui.engine.backfill.writing import ReplyWriter
from embedtui.errors import EmbedtuiError
from embedtui.model import EmbeddingModel, PlacementKind
from embedtui.postgres.connect import Link
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.state.batches import NewLine
from embedtui.postgres.state.shards import Shard, claim_shard, return_shard, split_shard
from embedtui.providers.batches import JOB_BYTES, batch_line

LINE_INPUTS = 128
"""Texts of a line: few enough that one that is refused takes few others with it, many enough that a job has hundreds of
lines and not tens of thousands, each with its own transaction."""

LEAST_LINE = 32
"""A line of fewer rows costs more by its transaction than it gains by HOT updates."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a job may hold."""

    inputs: int
    tokens: int | None = None
    """None: not limited."""
    bytes: int = JOB_BYTES


class JobFile:
    """A job in the making, on disk; a context manager, since the file goes with it."""

    def __init__(self, model: EmbeddingModel, room: Room, characters_per_token: float, *, in_column: bool) -> None:
        self.token: UUID = uuid4()
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.lines: list[NewLine] = []
        self.shards: list[int] = []
        """Whose rows, all that were to be embedded, are in it."""
        self.inputs = self.tokens = self.bytes = 0
        """``tokens`` by estimate."""
        self.full = False
        self._model, self._room, self._ratio, self._in_column = model, room, characters_per_token, in_column
        self._prefix = len(model.document_prefix)

    def __enter__(self) -> JobFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def fitting(self, rows: Sequence[SourceRow]) -> tuple[list[SourceRow], int | None]:
        """The rows of the blocks that there is room for, and the first block that there is none for (None: all are in).

        A file without anything takes one block whatever it holds (a job of at least 500 inputs has room for it), unless
        its tokens may not be spent.
        """
        inputs, tokens, size = self.inputs, self.tokens, self.bytes
        taken: list[SourceRow] = []
        for block, group in itertools.groupby(sorted(rows, key=lambda row: row.block), key=lambda row: row.block):
            found = list(group)
            inputs += len(found)
            tokens += sum(map(self._estimate, found))
            size += sum(len(json.dumps(row.text, ensure_ascii=False).encode("utf-8", "replace")) + 1 for row in found)
            too_many = inputs > self._room.inputs or size > self._room.bytes
            unpaid = self._room.tokens is not None and tokens > self._room.tokens
            if unpaid or (too_many and (self.inputs or taken)):
                return taken, block
            taken += found
        return taken, None

    def _estimate(self, row: SourceRow) -> int:
        return math.ceil((row.characters + self._prefix) / self._ratio * ESTIMATE_MARGIN) + 1

    def add(self, shard: Shard, rows: Sequence[SourceRow]) -> None:
        """Write these rows as lines, each with one row of a page, as a live request has; or few where pages are few."""
        model = self._model
        limits = Limits.of(model, LINE_INPUTS)
        pages = len({row.block for row in rows})
        per_page = max(1, -(-LEAST_LINE // pages)) if self._in_column else None
        for line in pack(rows, limits, self._ratio, per_page=per_page):
            number = len(self.lines)
            written = batch_line(str(self.token), number, model, [row.text for row in line])
            self.file.write(written)
            size = sum(len(row.text.encode("utf-8", "replace")) for row in line)
            self.lines.append(
                NewLine(
                    number,
                    shard.id,
                    tuple(row.key for row in line),
                    tuple(row.source for row in line),
                    size + len(model.document_prefix.encode()) * len(line),
                )
            )
            self.inputs += len(line)
            self.tokens += sum(map(self._estimate, line))
            self.bytes += len(written)


class Filler:
    """Claims shards and fills files with their rows; for one thread."""

    def __init__(
        self,
        job: Job,
        link: Link,
        writer: ReplyWriter,
        stop: threading.Event,
        characters_per_token: Callable[[], float],
    ) -> None:
        self._job, self._link, self._writer, self._stop = job, link, writer, stop
        self._reader = ShardReader(job, stop)
        self._ratio = characters_per_token

    def fill(self, room: Room) -> JobFile:
        """A file with the rows of as many open shards as there is room for; their leases are this worker's.

        It may have no line: there was no shard, no row in them, or (``full``) no room for a single block.
        """
        migration = self._job.migration
        in_column = migration.placement is PlacementKind.COLUMN
        file = JobFile(migration.new_model, room, self._ratio(), in_column=in_column)
        try:
            while not file.full and not self._stop.is_set():
                self._job.wait_while_held(self._stop)
                self._job.doing("filling a batch job")
                shard = self._job.with_database(
                    self._link, lambda conn: claim_shard(conn, migration, self._job.worker_id, live=False), self._stop
                )
                if shard is None:
                    break
                self._add(file, shard)
        except OSError as error:
            file.file.close()
            raise EmbedtuiError(
                f"The file of a batch job cannot be written: {error.strerror}.",
                hint="Make room in the temporary folder, or set TMPDIR, or a smaller new_model.batch_inputs.",
            ) from None
        except BaseException:
            file.file.close()
            raise
        return file

    def _add(self, file: JobFile, shard: Shard) -> None:
        for rows in self._reader.chunks(self._link, shard):
            too_long = [row for row in rows if row.characters > len(row.text)]
            if too_long:
                self._writer.reject(too_long)
            taken, beyond = file.fitting([row for row in rows if row.characters <= len(row.text)])
            if taken:
                file.add(shard, taken)
            if beyond is None:
                continue
            file.full = True
            if beyond > shard.first_block:
                split = functools.partial(split_shard, shard=shard.id, last_block=beyond - 1)
                self._job.with_database(self._link, split, self._stop)
                file.shards.append(shard.id)
            else:
                self._job.with_database(
                    self._link, lambda conn: return_shard(conn, shard.id, self._job.worker_id, done=False), self._stop
                )
            return
        if not self._stop.is_set():  # else it was not read to its end
            file.shards.append(shard.id)
