"""Makes batch jobs of open shards: recorded before the provider is asked, and after, so that none is made twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from embedtui.engine.backfill.batch.filling import Filler, JobFile, Room
from embedtui.engine.backfill.batch.provider_wait import Patience
from embedtui.engine.backfill.job import Job
from embedtui.errors import Interrupted
from embedtui.formatting import counted, number
from embedtui.model import FaultClass
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.state import batches as state
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.batches import BatchJob
from embedtui.postgres.state.shards import any_open, leave_to_live, return_all_shards, return_shard
from embedtui.providers import ProviderFault
from embedtui.providers.batches import JOB_INPUTS, BatchState, no_batches

if TYPE_CHECKING:
    from embedtui.providers.openai_batches import OpenAIBatches

T = TypeVar("T")

TAIL_INPUTS = 200
"""Fewer rows than these are no job: nobody waits a day to halve the price of so little."""
MOST_JOBS = 200
"""Under way at once."""


class Maker:
    """Makes jobs; for one thread."""

    def __init__(
        self,
        job: Job,
        link: Link,
        filler: Filler,
        patience: Patience,
        stop: threading.Event,
        *,
        provider: Callable[[], OpenAIBatches],
        room: Callable[[int], int] | None,
    ) -> None:
        """``room``: rows that may still be begun beside so many in jobs; None: all of them."""
        self._job, self._link, self._filler, self._patience, self._stop = job, link, filler, patience, stop
        self._provider, self._room = provider, room
        self.not_before = 0.0
        """By the monotonic clock: no job is made before."""
        self.enqueued_cap: int | None = None
        """Tokens that jobs under way may have together, as far as is known."""

    def _database(self, work: Callable[[Connection], T]) -> T:
        return self._job.with_database(self._link, work, self._stop)

    def make(self) -> bool:
        """Make a job of shards that are open; False where there is none, or no room."""
        if time.monotonic() < self.not_before:
            return False
        found = self._room_now()
        if found is None:
            self.not_before = time.monotonic() + 1.0
            return False
        with self._filler.fill(found) as file:
            if self._stop.is_set():
                raise Interrupted("Stopped.", hint="Run again to go on.")  # the leases end with the worker
            if not file.lines:
                return self._nothing_in(file)
            if not file.full and file.inputs < TAIL_INPUTS and self._room is None:
                self._database(lambda conn: leave_to_live(conn, file.shards, self._job.worker_id))
                return True
            job = self._record(file)
            if job is not None:
                self._send(job, file)
            return job is not None

    def _room_now(self) -> Room | None:
        migration = self._job.migration
        if not self._database(lambda conn: any_open(conn, migration.id)):
            return None
        enqueued = self._database(lambda conn: state.enqueued(conn, migration.id))
        inputs = migration.new_model.batch_inputs or JOB_INPUTS
        if self._room is not None:
            inputs = min(inputs, self._room(enqueued.inputs))
        left = self._database(lambda conn: state.tokens_left(conn, migration))
        tokens = None if left is None else int(left * self._tokens_per_live_token())
        if self.enqueued_cap is not None:
            free = self.enqueued_cap - enqueued.tokens
            if enqueued.jobs and free < self.enqueued_cap // 4:
                return None  # until one of them ends
            tokens = free if tokens is None else min(tokens, free)
        if tokens is not None and tokens <= 0:
            self._patience.no_room()
            return None
        return Room(inputs, tokens) if inputs > 0 and enqueued.jobs < MOST_JOBS else None

    def _tokens_per_live_token(self) -> float:
        """Tokens in a job for the price of one at the live endpoint."""
        each = self._job.migration.new_model.at_live_price(1_000_000)
        return 1_000_000 / each if each else 1e9

    def _nothing_in(self, file: JobFile) -> bool:
        """No row was left in these shards; or no block may be paid for, or enqueued, now."""

        def close(conn: Connection) -> None:
            for shard in file.shards:
                return_shard(conn, shard, self._job.worker_id, done=True)
            # no more are held for a job: what is leased to this process all the same, another one wrote so
            return_all_shards(conn, self._job.worker_id, live=False)

        self._database(close)
        if file.full:
            self.not_before = time.monotonic() + 1.0
            self._patience.no_room()
            return False
        return bool(file.shards)

    def _record(self, file: JobFile) -> BatchJob | None:
        job = self._database(
            lambda conn: state.record_job(
                conn,
                self._job.migration,
                self._job.worker_id,
                file.token,
                file.lines,
                file.shards,
                inputs=file.inputs,
                estimate=file.tokens,
            )
        )
        if job is None:  # the cap's room, or a shard, went to another worker

            def give_back(conn: Connection) -> None:
                for shard in file.shards:
                    return_shard(conn, shard, self._job.worker_id, done=False)

            self._database(give_back)
            self.not_before = time.monotonic() + 1.0
        return job

    def _send(self, job: BatchJob, file: JobFile) -> None:
        try:
            self._job.doing(f"uploading {number(file.inputs)} rows")
            name = self._patience.patiently(lambda: self._provider().upload(file.file, str(file.token), self._stop))
        except (ProviderFault, Interrupted) as error:
            self.end(job, "never sent", taken=False)  # nobody was asked to embed anything
            raise no_batches(error) if isinstance(error, ProviderFault) else error from None
        self.create(job, name)

    def create(self, job: BatchJob, file: str) -> None:
        """Have the provider make the job, once; its reply may be lost, so it is looked for before it is asked again."""
        self._job.wait_while_held(self._stop)
        if not self._database(lambda conn: state.asked(conn, job, self._job.worker_id, file)):
            return
        token = str(job.token)
        about = {"migration": self._job.migration.name, "rows": str(job.inputs)}
        made: BatchState | None = None
        while made is None:
            try:
                self._job.doing("asking for a batch job")
                made = self._provider().create(file, token, about, self._stop)
            except ProviderFault as fault:
                if fault.fault_class is not FaultClass.PROVIDER:
                    self.end(job, "refused", taken=False)
                    raise no_batches(fault) from None
                self._patience.trouble(fault)
                self._patience.wait()
                self._job.wait_while_held(self._stop)
                made = self._patience.patiently(lambda: self._provider().find(token, self._stop))
        self.made(job, made)

    def made(self, job: BatchJob, made: BatchState) -> None:
        """Record that the provider has the job; where the migration was given up meanwhile, end it there."""

        def record(conn: Connection) -> bool:
            with conn.transaction():
                known = state.sent(conn, job, made.id, made.status)
                if known:
                    rows = counted(job.inputs, "row", "rows")
                    add_audit(conn, self._job.migration.id, "batch", f"job {job.id} ({made.id}): {rows} sent")
            return known

        if not self._database(record):  # the migration was given up meanwhile
            self._provider().cancel(made.id, self._stop)
            return
        self._job.note(f"Batch job {job.id} with {counted(job.inputs, 'row', 'rows')} is at the provider ({made.id}).")

    def end(self, job: BatchJob, reason: str, *, taken: bool) -> tuple[int, int]:
        """End a job, also while stopping; rows stored, and lines left."""

        def end(conn: Connection) -> tuple[int, int]:
            with conn.transaction():
                rows, left = state.end_job(conn, self._job.migration, job, reason=reason, taken=taken)
                told = f"job {job.id}{f' ({job.batch})' if job.batch else ''}: {reason}; {rows} rows stored"
                add_audit(conn, self._job.migration.id, "batch", told)
            return rows, left

        return self._job.with_database(self._link, end, threading.Event())  # also while stopping
