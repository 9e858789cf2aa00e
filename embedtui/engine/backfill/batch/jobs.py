"""The life of batch jobs: made of open shards, recorded before and after, looked after, taken, found again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from embedtui.engine.backfill.batch.answers import Answers
from embedtui.engine.backfill.batch.filling import LINE_INPUTS, Filler
from embedtui.engine.backfill.batch.making import Maker
from embedtui.engine.backfill.batch.provider_wait import Patience
from embedtui.engine.backfill.embedding import ConfigurationFault
from embedtui.engine.backfill.job import IDLE_SECONDS, Job
from embedtui.engine.backfill.writing import ReplyWriter
from embedtui.engine.resilience import fatal
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.formatting import counted
from embedtui.model import Hold
from embedtui.postgres.connect import Connection
from embedtui.postgres.state import batches as state
from embedtui.postgres.state.batches import BatchJob
from embedtui.providers import ProviderFault, make_batches
from embedtui.providers.batches import BatchState

if TYPE_CHECKING:
    from embedtui.providers.openai_batches import OpenAIBatches

T = TypeVar("T")

RELISTED_SECONDS = 10.0
"""A job that was asked for and is not in the provider's list after so long was never made."""
JOB_GONE_SECONDS, FILE_GONE_SECONDS = 600.0, 10.0
"""What the provider says it does not know (404) for so long is gone. A job for longer than a file: a key of another
project does not see it, and a machine with the right key may come."""
OVERDUE_SECONDS = 26 * 3600.0
"""A job that is under way for longer than its window is ended; what it has is taken."""
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
        self._job, self._environ = job, environ
        self._stop = job.child_stop()
        self._link = job.link("batch")
        self._writer = ReplyWriter(job, self._stop)
        self._client: OpenAIBatches | None = None
        self._patience = Patience(job, self._stop)
        filler = Filler(job, self._link, self._writer, self._stop, characters_per_token)
        self._maker = Maker(
            job, self._link, filler, self._patience, self._stop, provider=lambda: self._provider, room=room
        )
        self._fruitless = self._crowded = 0
        """Jobs in a row that brought nothing; that were refused for what others of the same key have enqueued."""
        self._error: EmbedtuiError | None = None

    @property
    def hold(self) -> Hold | None:
        """What jobs wait for now; None: nothing but their answers."""
        return self._patience.hold

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
                self._job.wait_to_send(self._stop)
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
            self._patience.well()
            self._writer.close()
            self._link.drop()
            if self._client is not None:
                self._client.close()
            self._job.idle()

    def _step(self) -> bool:
        """Do what is due of one job; False where nothing is."""
        if not self._patience.over:
            return False
        job = self._database(lambda conn: state.next_job(conn, self._job.migration.id, self._job.worker_id))
        try:
            if job is not None:
                self._look_after(job)
            elif not self._job.migration.new_model.batch or not self._maker.make():
                return False
        except ProviderFault as fault:
            self._patience.trouble(fault)
            return True
        self._patience.well()
        return True

    def _database(self, work: Callable[[Connection], T]) -> T:
        return self._job.with_database(self._link, work, self._stop)

    @property
    def _provider(self) -> OpenAIBatches:
        if self._client is None:
            self._client = make_batches(self._job.migration.new_model, environ=self._environ)
        return self._client

    def _look_after(self, job: BatchJob) -> None:
        if job.state == "packed":  # whoever filled it ended before anybody was asked
            self._maker.end(job, "never sent", taken=False)
        elif job.state == "asked":
            found = self._provider.find(str(job.token), self._stop)
            if found is not None:
                self._maker.made(job, found)
            elif (job.asked_seconds or 0.0) >= RELISTED_SECONDS:
                self._maker.create(job, job.file)
            else:
                self._database(lambda conn: state.leave(conn, job, "", 0))
                self._stop.wait(IDLE_SECONDS)
        else:
            self._look_at(job)

    def _look_at(self, job: BatchJob) -> None:
        self._job.doing(f"watching batch job {job.id}")
        try:
            found = self._provider.retrieve(job.batch, self._stop)
        except ProviderFault as fault:
            if fault.code not in GONE:
                self._leave(job, "", 0)
                raise
            self._missing(job, "The provider does not know it", JOB_GONE_SECONDS)
            return
        if found.token not in ("", str(job.token)):
            self._maker.end(job, "its name at the provider is another's", taken=False)
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
        self._maker.end(job, "too many tokens enqueued", taken=False)
        others = self._database(lambda conn: state.enqueued(conn, self._job.migration.id)).tokens
        if found.limit is not None and found.limit >= others + job.estimate:  # others of this key fill it
            self._crowded += 1
            self._maker.not_before = time.monotonic() + min(600.0, 10.0 * 2 ** min(self._crowded, 6))
        else:
            self._maker.enqueued_cap = found.limit or max(others, job.estimate // 2)
        self._job.note(
            f"The provider takes no more tokens enqueued: batch job {job.id} is made again, later or smaller."
        )

    def _take(self, job: BatchJob, found: BatchState) -> None:
        """Store what it answered; what it did not goes into the next job, or to the live endpoint."""
        self._job.doing(f"storing batch job {job.id}")
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
        rows, left = self._maker.end(job, reason, taken=taken)
        rest = f", {counted(left, 'line', 'lines')} not" if left else ""
        self._job.note(f"Batch job {job.id} {reason}: {counted(rows, 'row', 'rows')} stored{rest}.")
        self._crowded = 0
        self._fruitless = 0 if rows else self._fruitless + 1
        if self._fruitless >= FRUITLESS_JOBS:
            raise ConfigurationFault(
                f"{self._fruitless} batch jobs in a row brought nothing; the last one: {reason}.",
                hint="See the provider's own page for the job, then resume; or set new_model.batch = false"
                " (`embedtui run --no-batch`) for the live endpoint at its price.",
            )
        if not rows:
            self._maker.not_before = time.monotonic() + 2.0**self._fruitless

    def _clear_up(self, found: BatchState) -> None:
        """Take the job's files away from the provider; one that stays there expires by itself."""
        if not found.token:
            return
        for file in (found.input_file, found.output_file, found.error_file):
            with suppress(ProviderFault):
                if file:
                    self._provider.delete_file(file, self._stop)
