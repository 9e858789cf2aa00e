"""The working phases of one process in their order: backfill, final sweep, index, and keeping up beside them."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import psycopg

from embedtui.engine.backfill.backfill import Backfill
from embedtui.engine.backfill.batch.jobs import BatchJobs
from embedtui.engine.backfill.embedding import ConfigurationFault, RowEmbedder
from embedtui.engine.backfill.index_stage import IndexStage
from embedtui.engine.backfill.job import IDLE_SECONDS, Job, now
from embedtui.engine.backfill.pacing import Pacer, in_line
from embedtui.engine.backfill.partitions import queue_unseen
from embedtui.engine.backfill.sizing import RequestSize
from embedtui.engine.backfill.sync import Sync
from embedtui.engine.bridge.refit import Refit
from embedtui.engine.cutover.cutover import flip_if_due
from embedtui.engine.prepare import count_total
from embedtui.engine.resilience import fatal
from embedtui.engine.validate.evaluation import current_evaluation
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.formatting import counted
from embedtui.model import (
    EmbeddingModel,
    FaultClass,
    Key,
    Migration,
    Phase,
    PhaseChanged,
    RouteFlipped,
)
from embedtui.postgres.connect import Connection, Link, connect
from embedtui.postgres.sides import capture
from embedtui.postgres.state.audit import add_audit_once
from embedtui.postgres.state.migrations import load_migration, set_phase
from embedtui.postgres.state.models import load_learnt, store_learnt
from embedtui.postgres.state.partitions import remember_partitions, unseen_partitions
from embedtui.postgres.state.pointer import reads_ever_moved
from embedtui.postgres.state.queue import EVERY_KIND, last_entry, queue_keys, waits
from embedtui.postgres.state.shards import plan_shards
from embedtui.postgres.state.stale import marked_to_embed
from embedtui.providers import Embedder, ProviderFault, make_embedder

T = TypeVar("T")

SWEEP_LIMIT = 5_000
"""Rows that the final sweep queues at a time; where there are more, the shards are read anew."""
DRAIN_SECONDS = 90.0
"""Longest wait for the queue; a key put off comes up again within a minute."""
SWEEP_ROUNDS_WITHOUT_GAIN = 20
"""Sweeps that find the same rows (locked by the application for long), each a second apart, before that is said."""


def make_row_embedder(
    model: EmbeddingModel,
    environ: Mapping[str, str],
    pacer: Pacer | None,
    job: Job,
    *,
    urgent: bool = False,
    size: RequestSize | None = None,
) -> RowEmbedder:
    """An embedder of rows that waits out pauses and holds, and says what it waits for; without a pacer it never waits.

    Raises:
        ConfigurationFault: no key, or no endpoint.
    """
    try:
        embedder: Embedder = make_embedder(model, environ=environ)
    except ProviderFault as fault:
        raise ConfigurationFault(fault.reason, hint=fault.hint) from None

    of_size = size or request_size(model, job)
    if pacer is not None:
        job.waiting = lambda: {**of_size.waiting(), **in_line(pacer)}

    def on_fault(fault: ProviderFault) -> None:
        if fault.fault_class is not FaultClass.PROVIDER:
            return
        if pacer is not None:
            job.provider_failed(fault)
        else:  # the old model, whose trouble holds nothing up
            job.failed(f"Provider: {fault.reason}", FaultClass.PROVIDER, fault.hint)

    def on_remark(remark: str) -> None:
        job.note(f"Provider: {remark}")
        with contextlib.suppress(psycopg.Error, EmbedtuiError), connect(job.dsn, name="note") as conn:
            add_audit_once(conn, job.migration.id, "provider", remark)

    migration = job.migration
    kind = migration.old_vector_type if model == migration.old_model else migration.vector_type
    return RowEmbedder(
        model,
        embedder,
        pacer,
        gate=job.wait_to_send,
        held=lambda: job.held,
        on_fault=on_fault,
        on_remark=on_remark,
        urgent=urgent,
        half=kind == "halfvec",
        size=of_size,
    )


def _keeping(conn: Connection, migration: int) -> str:
    """What a worker does once nothing else is due: until reads move, the old side is the application's."""
    return f"keeping {'both sides' if reads_ever_moved(conn, migration) else 'the new side'} in sync"


def request_size(model: EmbeddingModel, job: Job, link: Link | None = None) -> RequestSize:
    """What a request to ``model`` may hold, as found by earlier runs; what is found now is kept for later ones.

    ``link``: where that is read, once; None: on a connection of its own.
    """
    found: tuple[int | None, int | None] = (None, None)
    with contextlib.suppress(psycopg.Error, EmbedtuiError):
        if link is not None:
            found = load_learnt(link.get(), model.id)
        else:
            with connect(job.dsn, name="learnt") as conn:
                found = load_learnt(conn, model.id)

    def keep(inputs: int | None, tokens: int | None) -> None:
        limits = ((inputs, "texts"), (tokens, "tokens"))
        said = [f"{most:,} {unit}" for most, unit in limits if most is not None]
        job.note(f"{model.name} takes at most {' and '.join(said)} a request here." if said else "No limit was found.")
        with contextlib.suppress(psycopg.Error, EmbedtuiError), connect(job.dsn, name="learnt") as conn:
            store_learnt(conn, model.id, inputs, tokens)

    return RequestSize(model, found, keep=keep)


class Stages:
    """The phases that one worker process takes part in."""

    def __init__(
        self,
        job: Job,
        *,
        environ: Mapping[str, str],
        read_progress: Callable[[], tuple[int, int | None, int]],
        until: float | None,
        follow: bool,
    ) -> None:
        """``read_progress``: rows done, rows in all (None: unknown), and workers alive.

        ``until``: percent of the rows after which to stop; None does all that is to be done.
        """
        self._job, self._environ, self._progress = job, environ, read_progress
        self._until, self._follow = until, follow
        self._stopped_at_share = False
        self._pacer = Pacer(job.dsn, job.migration)
        job.follow_pacer(lambda: self._pacer.hold, lambda: self._pacer.in_flight)
        self._link = job.link("stage", statement_timeout_ms=0)
        self._index = IndexStage(job, self._link, lasting=follow, why_stopped=self._why_stopped)
        self._refit = Refit(job)
        self._sync_error: EmbedtuiError | None = None

    def run(self) -> None:
        """Work until the phase is past the index (and with ``follow`` until stopped).

        Raises:
            Interrupted: stopped, or ``until`` was reached.
            ConfigurationFault: the provider refuses us as configured.
        """
        model = self._job.migration.new_model
        with contextlib.ExitStack() as ends:
            ends.callback(self._pacer.close)
            ends.callback(self._link.drop)
            size = request_size(model, self._job, self._link)
            make = functools.partial(make_row_embedder, model, self._environ, self._pacer, self._job, size=size)
            new = ends.enter_context(contextlib.closing(make()))
            # An application's edit does not queue behind the whole backfill for the provider's budget.
            urgent = ends.enter_context(contextlib.closing(make(urgent=True)))
            if (old := self._old_embedder()) is not None:
                ends.enter_context(contextlib.closing(old))
            sync = Sync(self._job, urgent, old, characters_per_token=lambda: self._pacer.characters_per_token)
            ends.callback(sync.close)
            self._work(new, sync)
        if self._sync_error is not None:
            raise self._sync_error

    def _work(self, new: RowEmbedder, sync: Sync) -> None:
        """The phases, and what goes on beside them."""
        work = {"sync": lambda: self._keep_up(sync), "refit": lambda: self._beside(self._refit.keep_up)}
        if self._until is not None:
            work["until"] = lambda: self._beside(self._watch_share)
        beside = [threading.Thread(target=target, name=name, daemon=True) for name, target in work.items()]
        for thread in beside:
            thread.start()
        try:
            self._phases(new, sync)
        except Interrupted:
            if not self._stopped_at_share and self._sync_error is None:
                raise
        finally:
            self._job.halt()
            for thread in beside:
                thread.join()

    # -------------------------------------------------------------------------------------------------- embedders

    def _old_embedder(self) -> RowEmbedder | None:
        """None where the old model is known to be dead, unnamed, or without a key: nothing may need it.

        It has no pacer: an outage of the old model, or its price, must not hold up the new side.
        """
        model = self._job.migration.old_model
        if model.unasked:
            return None
        try:
            size = request_size(model, self._job, self._link)
            return make_row_embedder(model, self._environ, None, self._job, size=size)
        except ConfigurationFault as fault:
            self._job.note(f"The old model cannot be used: {fault.message}")
            return None

    # ----------------------------------------------------------------------------------------------------- phases

    def _database(self, work: Callable[[Connection], T]) -> T:
        return self._job.with_database(self._link, work)

    def _migration(self) -> Migration:
        migration = self._database(lambda conn: load_migration(conn, self._job.migration.name))
        assert migration is not None
        return migration

    def _enter(self, phase: Phase, expect: Phase) -> None:
        if self._database(lambda conn: set_phase(conn, self._job.migration.id, phase, expect=(expect,))):
            self._job.emit(PhaseChanged(now(), f"Phase: {phase}", phase))

    def _phases(self, new: RowEmbedder, sync: Sync) -> None:
        while not self._job.stop.is_set():
            self._job.wait_while_held(self._job.stop)
            phase = self._migration().phase
            if phase is not Phase.BACKFILL:  # there, rows are read while the provider's first answer comes
                self._job.wait_to_send(self._job.stop)
            if phase is Phase.BACKFILL:
                self._backfill(new)
                self._sweep(new)
                self._refit.look()
                self._enter(Phase.INDEX, Phase.BACKFILL)
            elif phase is Phase.INDEX:
                self._index.run()
                self._enter(Phase.VALIDATE, Phase.INDEX)
            elif phase.ended:
                return
            elif not self._follow:
                if not self._job.migration.stored.by_triggers:  # no trigger tells whether there is anything to do
                    self._database(lambda conn: capture.add_fault(conn, self._job.migration, "a run began"))
                self._settle()
                if self._database(self._scan_goes_on):  # the queue held a key that only a scan finds
                    self._settle()
                self._await_old_side(sync)
                return
            else:
                self._job.doing(self._database(lambda conn: _keeping(conn, self._job.migration.id)))
                self._flip_if_due()
                self._job.stop.wait(1.0)
        raise self._why_stopped()

    def _settle(self) -> None:
        self._await_scan()
        while self._database(lambda conn: queue_unseen(conn, self._job.placement)):
            self._job.doing("queueing a partition")
        self._drain(EVERY_KIND)

    def _scan_goes_on(self, conn: Connection) -> bool:
        """Whether a scan is to come, or rows wait that one found."""
        return capture.faulty(conn, self._job.migration.id) or waits(conn, self._job.migration.id, kinds="s")

    def _await_old_side(self, sync: Sync) -> None:
        """Wait until the old model, while it answers, has embedded the rows that a rollback would find stale."""
        number = self._job.migration.id
        self._await(
            lambda: bool(self._database(lambda conn: marked_to_embed(conn, number, 1))) and sync.hurry_old_side(),
            "bringing the old side up to date",
            "Old vectors are still being brought up to date: `embedtui run` again.",
        )

    def _why_stopped(self) -> EmbedtuiError:
        return self._sync_error or Interrupted("Stopped.", hint="Run again to go on.")

    def _flip_if_due(self) -> None:
        """Carry out a cutover that an operator postponed until nothing waits to be synced."""
        evaluation = self._database(lambda conn: current_evaluation(conn, self._job.migration))
        try:
            flip = flip_if_due(self._job.dsn, self._job.migration, evaluation)
        except EmbedtuiError as error:
            self._job.failed(f"The postponed cutover failed: {error.message}", hint=error.hint)
            return
        if flip is not None and flip.changed:
            text = f"The {flip.active} side serves: the postponed cutover was due"
            self._job.emit(RouteFlipped(now(), text, flip.active, flip.canary, flip.epoch, flip.milliseconds))

    def _backfill(self, new: RowEmbedder) -> None:
        room = None if self._until is None else self._room
        batches = BatchJobs(
            self._job,
            environ=self._environ,
            characters_per_token=lambda: self._pacer.characters_per_token,
            room=room,
        )
        self._job.follow_pacer(lambda: self._pacer.hold or batches.hold, lambda: self._pacer.in_flight)
        with batches.at_work():
            Backfill(
                self._job,
                new,
                threads=self._database(lambda _: self._pacer.max_concurrency),
                characters_per_token=lambda: self._pacer.characters_per_token,
                room=room,
                only_live=self._job.migration.new_model.batch,
            ).run()

    def _room(self, under_way: int) -> int:
        """Rows that may be begun beside ``under_way``: an equal share for each worker of what ``until`` leaves."""
        try:
            done, total, workers = self._progress()
        except EmbedtuiError:
            return 0  # the worker threads say it
        if total is None or self._until is None:
            return 0
        return -(-max(0, math.ceil(total * self._until / 100) - done) // max(1, workers)) - under_way

    def _sweep(self, new: RowEmbedder) -> None:
        """Find what the shards left (rows locked, moved or changed meanwhile) until nothing is left."""
        migration = self._job.migration
        before: list[Key] = []
        rounds = 0
        while True:
            self._job.doing("final sweep")
            self._drain("r")
            if self._database(lambda conn: plan_shards(conn, migration.id, migration.table_oid)):
                self._backfill(new)
                continue
            attached = self._database(functools.partial(unseen_partitions, migration=migration))
            keys = self._database(lambda conn: self._job.placement.sweep(conn, SWEEP_LIMIT))
            if not keys:
                self._database(functools.partial(remember_partitions, migration=migration, attached=attached))
                self._database(lambda conn: count_total(conn, migration))
                self._database(self._job.placement.forget_gone)
                return
            rounds = rounds + 1 if keys == before else 0
            before = keys
            if rounds >= SWEEP_ROUNDS_WITHOUT_GAIN:
                locked = counted(len(keys), "row is", "rows are")
                self._job.note(f"{locked} still locked by the application, e.g. {', '.join(keys[0])}")
                rounds = 0
            self._database(functools.partial(queue_keys, migration_id=migration.id, keys=keys))
            if rounds and self._job.stop.wait(1.0):
                raise self._why_stopped()

    def _drain(self, kinds: str) -> None:
        """Wait until the sync thread, here or elsewhere, has worked off the queued entries of these kinds.

        Those that come meanwhile are not waited for, and not for ever: a key that the application touches all the
        time is put off, and sync goes on beside every later phase.
        """
        migration = self._job.migration.id
        last = self._database(lambda conn: last_entry(conn, migration))
        if last is None:
            return
        self._await(
            lambda: self._database(lambda conn: waits(conn, migration, up_to=last, kinds=kinds)),
            "waiting for the sync",
            "Some changes still wait to be synced; they are worked off beside what follows.",
        )

    def _await_scan(self) -> None:
        """Wait until the sync thread, here or elsewhere, has scanned for what change capture could not follow."""
        self._await(
            lambda: self._database(lambda conn: capture.faulty(conn, self._job.migration.id)),
            "waiting for a scan",
            "Changes that were not captured are still being scanned for: `embedtui run` again.",
        )

    def _await(self, lasts: Callable[[], bool], doing: str, left: str) -> None:
        """Wait while something ``lasts``, but not for ever; ``left``: what to say where it lasts longer."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while lasts():
            self._job.doing(doing)
            if self._job.stop.wait(IDLE_SECONDS):
                raise self._why_stopped()
            if time.monotonic() > deadline:
                self._job.note(left)
                return

    # ------------------------------------------------------------------------------------------------ side threads

    def _keep_up(self, sync: Sync) -> None:
        try:
            while not self._job.stop.is_set():
                sync.locked.wait_to_send()
                if not sync.step():
                    self._job.doing("waiting for changes")
                    self._job.stop.wait(IDLE_SECONDS)
        except Interrupted:
            pass
        except BaseException as error:  # noqa: BLE001 - the thread that runs all raises it
            if not self._ended():  # a cleanup takes the old names from under a statement
                self._sync_error = fatal(error)
                self._job.halt()
        finally:
            self._job.idle()

    def _beside(self, body: Callable[[], None]) -> None:
        """The body of a side thread: what nobody foresaw there ends the work, and never the thread alone."""
        try:
            body()
        except Interrupted:
            pass
        except BaseException as error:  # noqa: BLE001 - the thread that runs all raises it
            self._job.fail(fatal(error))

    def _ended(self) -> bool:
        """Whether the migration is over; on a connection of its own, for the side threads."""
        try:
            with connect(self._job.dsn, name="sync") as conn:
                migration = load_migration(conn, self._job.migration.name)
        except (psycopg.Error, EmbedtuiError):
            return False
        return migration is not None and migration.phase.ended

    def _watch_share(self) -> None:
        while not self._job.stop.wait(0.2):
            try:
                done, total, _ = self._progress()
            except EmbedtuiError:
                continue  # the worker threads say it
            if total is not None and self._until is not None and done * 100 >= total * self._until:
                self._stopped_at_share = True
                self._job.halt()
