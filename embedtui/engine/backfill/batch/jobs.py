"""The life of batch jobs: made of open shards, recorded before and after, looked after, taken, found again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from embedtui.engine.backfill.batch.answers import Answers
from embedtui.engine.backfill.batch.filling import LINE_INPUTS, Filler, JobFile, Room
from embedtui.engine.backfill.embedding import ConfigurationFault
from embedtui.engine.backfill.job import Job, now
from embedtui.engine.backfill.writing import ReplyWriter
from embedtui.engine.resilience import fatal
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.formatting import counted, number
from embedtui.model import FaultClass, Hold
from embedtui.postgres.connect import Connection
from embedtui.postgres.state import batches as state
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.batches import BatchJob
from embedtui.postgres.state.shards import any_open, leave_to_live, return_shard
from embedtui.providers import ProviderFault, make_batches
from embedtui.providers.batches import JOB_INPUTS, BatchState, no_batches

if TYPE_CHECKING:
    from embedtui.providers.openai_batches import OpenAIBatches

T = TypeVar("T")

IDLE_SECONDS = 0.25
"""Between looks at the database while there is nothing to do."""
TAIL_INPUTS = 200
"""Fewer rows than these are no job: nobody waits a day to halve the price of so little."""
MOST_JOBS = 200
"""Under way at once."""
RELISTED_SECONDS = 10.0
"""A job that was asked for and is not in the provider's list after so long was never made."""
JOB_GONE_SECONDS, FILE_GONE_SECONDS = 600.0, 10.0
"""What the provider says it does not know (404) for so long is gone. A job for longer than a file: a key of another
project does not see it, and a machine with the right key may come."""
OVERDUE_SECONDS = 26 * 3600.0
"""A job that is under way for longer than its window is ended; what it has is taken."""
LONGEST_PAUSE = 60.0
"""Between two tries while the provider is in trouble."""
FRUITLESS_JOBS = 3
"""In a row, of which not one vector could be stored: then an operator has to decide."""
GONE = ("404", "410")
ENDED = ("completed", "expired", "cancelled")


class BatchJobs:
    """What one process does for the batch jobs of its migration; all of it on one thread."""

    def __init__(
        self,
        job: Job,
        *,
        environ: Mapping[str, str],
        characters_per_token: Callable[[], float],
        room: Callable[[int], int] | None = None,
    ) -> None:
        """``room``: rows that may still be begun beside so many in jobs; None: all of them."""
        self._job, self._environ, self._room = job, environ, room
        self._stop = job.child_stop()
        self._link = job.link("batch")
        self._writer = ReplyWriter(job, self._stop)
        self._filler = Filler(job, self._link, self._writer, self._stop, characters_per_token)
        self._client: OpenAIBatches | None = None
        self._hold: Hold | None = None
        self._tries = 0
        """Failures in a row."""
        self._again_at = 0.0
        """By the monotonic clock: before, the provider is not asked."""
        self._fill_at = 0.0
        self._enqueued_cap: int | None = None
        """Tokens that jobs under way may have together, as far as is known."""
        self._fruitless = 0
        self._error: EmbedtuiError | None = None

    @property
    def hold(self) -> Hold | None:
        """What jobs wait for now; None: nothing but their answers."""
        return self._hold

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, a thread looks after the jobs; its error, if any, is raised at the end."""
        thread = threading.Thread(target=self._run, name="batch", daemon=True)
        thread.start()
        try:
            yield
        except Interrupted:
            if self._error is None:
                raise
        finally:
            self._stop.set()
            thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._job.wait_while_held(self._stop)
                if self._step():
                    continue
                if self._job.migration.new_model.batch:
                    self._job.doing("waiting for batch jobs")
                    self._stop.wait(IDLE_SECONDS)
                else:  # those that another run has left are looked after all the same
                    self._stop.wait(4 * IDLE_SECONDS)
        except Interrupted:
            pass
        except BaseException as error:  # noqa: BLE001 - the thread that runs all raises it
            self._error = fatal(error)
            self._job.halt()
        finally:
            self._hold = None
            self._writer.close()
            self._link.drop()
            if self._client is not None:
                self._client.close()
            self._job.idle()

    def _step(self) -> bool:
        """Do what is due of one job; False where nothing is."""
        if time.monotonic() < self._again_at:
            return False
        job = self._database(lambda conn: state.next_job(conn, self._job.migration.id, self._job.worker_id))
        try:
            if job is not None:
                self._look_after(job)
            elif not self._job.migration.new_model.batch or time.monotonic() < self._fill_at or not self._make():
                return False
        except ProviderFault as fault:
            self._trouble(fault)
            return True
        self._tries, self._hold = 0, None
        return True

    def _database(self, work: Callable[[Connection], T]) -> T:
        return self._job.with_database(self._link, work, self._stop)

    @property
    def _provider(self) -> OpenAIBatches:
        if self._client is None:
            self._client = make_batches(self._job.migration.new_model, environ=self._environ)
        return self._client

    def _trouble(self, fault: ProviderFault) -> None:
        """Wait a little and try again, where that may help.

        Raises:
            ConfigurationFault: it does not.
        """
        if fault.fault_class is not FaultClass.PROVIDER:
            raise ConfigurationFault(fault.reason, hint=fault.hint)
        pause = max(min(LONGEST_PAUSE, 2.0 ** min(self._tries, 6) / 2), fault.retry_after or 0.0)
        self._tries += 1
        self._again_at = time.monotonic() + pause
        if self._hold is None:
            self._job.failed(f"Provider: {fault.reason}", FaultClass.PROVIDER, fault.hint)
        self._hold = Hold("provider", f"Batch jobs: {fault.reason}", self._hold.since if self._hold else now())

    def _patiently(self, work: Callable[[], T]) -> T:
        """Repeat until the provider answers; raises ProviderFault where waiting does not help."""
        while True:
            try:
                return work()
            except ProviderFault as fault:
                if fault.fault_class is not FaultClass.PROVIDER:
                    raise
                self._trouble(fault)
            self._wait()

    def _wait(self) -> None:
        self._job.doing("waiting for the provider")
        if self._stop.wait(max(0.0, self._again_at - time.monotonic())):
            raise Interrupted("Stopped.", hint="Run again to go on.")

    # ---------------------------------------------------------------------------------------------------- a new job

    def _make(self) -> bool:
        """Make a job of shards that are open; False where there is none, or no room."""
        found = self._room_now()
        if found is None:
            self._fill_at = time.monotonic() + 1.0
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
        if self._enqueued_cap is not None:
            free = self._enqueued_cap - enqueued.tokens
            if enqueued.jobs and free < self._enqueued_cap // 4:
                return None  # until one of them ends
            tokens = free if tokens is None else min(tokens, free)
        if tokens is not None and tokens <= 0:
            self._no_room()
            return None
        return Room(inputs, tokens) if inputs > 0 and enqueued.jobs < MOST_JOBS else None

    def _no_room(self) -> None:
        if self._hold is None:
            self._hold = Hold("spend_cap", "No room for another batch job: spend cap, or tokens enqueued.", now())

    def _tokens_per_live_token(self) -> float:
        """Tokens in a job for the price of one at the live endpoint."""
        each = self._job.migration.new_model.at_live_price(1_000_000)
        return 1_000_000 / each if each else 1e9

    def _nothing_in(self, file: JobFile) -> bool:
        """No row was left in these shards; or no block may be paid for, or enqueued, now."""

        def close(conn: Connection) -> None:
            for shard in file.shards:
                return_shard(conn, shard, self._job.worker_id, done=True)

        self._database(close)
        if file.full:
            self._fill_at = time.monotonic() + 1.0
            self._no_room()
            return False
        return bool(file.shards)

    def _record(self, file: JobFile) -> BatchJob | None:
        def record(conn: Connection) -> BatchJob | None:
            with suppress(state.LeaseLost):
                return state.record_job(
                    conn,
                    self._job.migration,
                    self._job.worker_id,
                    file.token,
                    file.lines,
                    file.shards,
                    inputs=file.inputs,
                    count=len(file.lines),
                    estimate=file.tokens,
                )
            return None

        job = self._database(record)
        if job is None:  # the cap's room went to another worker

            def give_back(conn: Connection) -> None:
                for shard in file.shards:
                    return_shard(conn, shard, self._job.worker_id, done=False)

            self._database(give_back)
            self._fill_at = time.monotonic() + 1.0
        return job

    def _send(self, job: BatchJob, file: JobFile) -> None:
        try:
            self._job.doing(f"uploading {number(file.inputs)} rows")
            name = self._patiently(lambda: self._provider.upload(file.file, str(file.token), self._stop))
        except (ProviderFault, Interrupted) as error:
            self._end(job, "never sent", taken=False)  # nobody was asked to embed anything
            raise no_batches(error) if isinstance(error, ProviderFault) else error from None
        self._create(job, name)

    def _create(self, job: BatchJob, file: str) -> None:
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
                made = self._provider.create(file, token, about, self._stop)
            except ProviderFault as fault:
                if fault.fault_class is not FaultClass.PROVIDER:
                    self._end(job, "refused", taken=False)
                    raise no_batches(fault) from None
                self._trouble(fault)
                self._wait()
                made = self._patiently(lambda: self._provider.find(token, self._stop))
        self._made(job, made)

    def _made(self, job: BatchJob, made: BatchState) -> None:
        def record(conn: Connection) -> bool:
            with conn.transaction():
                known = state.sent(conn, job, made.id, made.status)
                if known:
                    rows = counted(job.inputs, "row", "rows")
                    add_audit(conn, self._job.migration.id, "batch", f"job {job.id} ({made.id}): {rows} sent")
            return known

        if not self._database(record):  # the migration was given up meanwhile
            self._provider.cancel(made.id, self._stop)
            return
        self._job.note(f"Batch job {job.id} with {counted(job.inputs, 'row', 'rows')} is at the provider ({made.id}).")

    # ------------------------------------------------------------------------------------------------ a job under way

    def _look_after(self, job: BatchJob) -> None:
        if job.state == "packed":  # whoever filled it ended before anybody was asked
            self._end(job, "never sent", taken=False)
        elif job.state == "asked":
            found = self._provider.find(str(job.token), self._stop)
            if found is not None:
                self._made(job, found)
            elif (job.asked_seconds or 0.0) >= RELISTED_SECONDS:
                self._create(job, job.file)
            else:
                self._database(lambda conn: state.leave(conn, job, "", 0))
                self._stop.wait(IDLE_SECONDS)
        else:
            self._look_at(job)

    def _look_at(self, job: BatchJob) -> None:
        self._job.doing(f"looking after batch job {job.id}")
        try:
            found = self._provider.retrieve(job.batch, self._stop)
        except ProviderFault as fault:
            if fault.code not in GONE:
                self._leave(job, "", 0)
                raise
            self._missing(job, "The provider does not know it", JOB_GONE_SECONDS)
            return
        if found.token not in ("", str(job.token)):
            self._end(job, "its name at the provider is another's", taken=False)
        elif found.status == "failed":
            self._failed(job, found)
        elif found.status in ENDED:
            self._take(job, found)
        else:
            if (job.sent_seconds or 0.0) > OVERDUE_SECONDS and found.status != "cancelling" and found.token:
                found = self._provider.cancel(job.batch, self._stop)
            self._leave(job, found.status, found.finished)

    def _leave(self, job: BatchJob, status: str, finished: int, *, missing: bool = False) -> None:
        self._database(lambda conn: state.leave(conn, job, status, finished, missing=missing))

    def _missing(self, job: BatchJob, what: str, patience: float) -> None:
        if job.missing_seconds is None:
            self._job.failed(f"Batch job {job.id} ({job.batch}): {what}; it is looked for again for {patience:.0f} s.")
        if (job.missing_seconds or 0.0) < patience:
            self._leave(job, "", 0, missing=True)
            return
        self._over(job, f"{what[:1].lower()}{what[1:]}", taken=False)

    def _failed(self, job: BatchJob, found: BatchState) -> None:
        """It did not pass the provider's checks: nothing was paid."""
        self._clear_up(found)
        if "limit" not in found.code:
            self._over(job, f"failed: {found.code or 'without a reason'}", taken=False)
            return
        self._end(job, "too many tokens enqueued", taken=False)
        others = self._database(lambda conn: state.enqueued(conn, self._job.migration.id)).tokens
        if found.limit is not None and found.limit >= others + job.estimate:  # others of this key fill it
            self._tries += 1
            self._fill_at = time.monotonic() + min(600.0, 10.0 * 2 ** min(self._tries, 6))
        else:
            self._enqueued_cap = found.limit or max(others, job.estimate // 2)
        self._job.note(
            f"The provider takes no more tokens enqueued: batch job {job.id} is made again, later or smaller."
        )

    def _take(self, job: BatchJob, found: BatchState) -> None:
        """Store what it answered; what it did not goes into the next job, or to the live endpoint."""
        self._job.doing(f"taking the answers of batch job {job.id}")
        answers = Answers(self._job, self._writer, self._provider, self._stop)
        strange = 0
        for file in (found.output_file, found.error_file):
            if not file:
                continue
            try:
                strange += answers.take(job, file, LINE_INPUTS)
            except ProviderFault as fault:
                if fault.code not in GONE:
                    self._leave(job, found.status, found.finished)
                    raise
                if file == found.output_file and (job.missing_seconds or 0.0) < FILE_GONE_SECONDS:
                    self._missing(job, "The provider does not know its output file", FILE_GONE_SECONDS)
                    return
        note = f"; {counted(strange, 'line', 'lines')} of its files were broken" if strange else ""
        self._over(job, f"{found.status}{note}", taken=True)
        self._clear_up(found)

    def _over(self, job: BatchJob, reason: str, *, taken: bool) -> None:
        """End a job, and say so.

        Raises:
            ConfigurationFault: it was one of several in a row that brought nothing.
        """
        rows, left = self._end(job, reason, taken=taken)
        rest = f", {counted(left, 'line', 'lines')} not" if left else ""
        self._job.note(f"Batch job {job.id} {reason}: {counted(rows, 'row', 'rows')} stored{rest}.")
        self._fruitless = 0 if rows else self._fruitless + 1
        if self._fruitless >= FRUITLESS_JOBS:
            raise ConfigurationFault(
                f"{self._fruitless} batch jobs in a row brought nothing; the last one: {reason}.",
                hint="See the provider's own page for the job, then resume; or set new_model.batch = false"
                " (`embedtui run --no-batch`) for the live endpoint at its price.",
            )
        if not rows:
            self._fill_at = time.monotonic() + 2.0**self._fruitless

    def _end(self, job: BatchJob, reason: str, *, taken: bool) -> tuple[int, int]:
        def end(conn: Connection) -> tuple[int, int]:
            with conn.transaction():
                rows, left = state.end_job(conn, self._job.migration, job, reason=reason, taken=taken)
                told = f"job {job.id}{f' ({job.batch})' if job.batch else ''}: {reason}; {rows} rows stored"
                add_audit(conn, self._job.migration.id, "batch", told)
            return rows, left

        return self._job.with_database(self._link, end, threading.Event())  # also while stopping

    def _clear_up(self, found: BatchState) -> None:
        """Take the job's files away from the provider; one that stays there expires by itself."""
        if not found.token:
            return
        for file in (found.input_file, found.output_file, found.error_file):
            with suppress(ProviderFault):
                if file:
                    self._provider.delete_file(file, self._stop)
