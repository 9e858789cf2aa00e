"""Cleanup, abort and adoption as an operator asks for them, with what they say at each step."""

from __future__ import annotations

import threading
from types import MappingProxyType

from embedtui.engine.access import Access
from embedtui.engine.adopt import adopt, adoption
from embedtui.engine.backfill.batch.ending import cancel_jobs
from embedtui.engine.backfill.job import now
from embedtui.engine.cleanup.abort import abort
from embedtui.engine.cleanup.choice import CleanupChoice, CleanupStep
from embedtui.engine.cleanup.cleanup import cleanup
from embedtui.engine.cleanup.statements import shown_sql
from embedtui.engine.cleanup.steps import alone
from embedtui.engine.overrides import Overrides
from embedtui.engine.prepare import upgrade
from embedtui.model import Noted, Phase, PhaseChanged
from embedtui.postgres.connect import Connection, connect
from embedtui.postgres.state.batches import BatchJob, open_jobs


def clean_up(
    at: Access,
    typed_name: str,
    choice: CleanupChoice,
    *,
    override: Overrides = MappingProxyType({}),
    seen: int | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Drop the old side as chosen and finish; see :meth:`embedtui.engine.Engine.cleanup`."""
    migration = at.require()

    def work(conn: Connection) -> None:
        cleanup(
            conn,
            migration,
            choice,
            typed_name=typed_name,
            stop=stop or threading.Event(),
            override=override,
            seen=seen,
            on_step=lambda step: at.emit(Noted(now(), f"Cleanup: {step.name}: {step.detail}")),
            on_wait=at.say_waiting,
            connect=lambda: connect(at.dsn, name="index", statement_timeout_ms=0, lock_timeout_ms=0),
        )

    at.write(work, name="cleanup")
    at.emit(PhaseChanged(now(), "Done", Phase.DONE))


def give_up(at: Access, typed_name: str, *, seen: int | None = None, stop: threading.Event | None = None) -> str:
    """Take everything back to before ``prepare``; gives what was done, and what is left, in a sentence or two.

    Raises:
        Refused: production reads the new side, something depends on it, or the name is another.
    """
    migration = at.require()

    stopped = stop or threading.Event()
    said: list[str] = []

    def on_step(step: CleanupStep) -> None:
        at.emit(Noted(now(), f"Abort: {step.name}: {step.detail}"))
        if step.name == "remove":  # no worker makes another one now, and a rerun comes by here again
            said[:] = cancel_jobs(at.read(lambda conn: open_jobs(conn, migration.id)), migration, at.environ, stopped)

    def work(conn: Connection) -> str:
        return abort(
            conn,
            migration,
            typed_name=typed_name,
            seen=seen,
            stop=stopped,
            on_step=on_step,
            on_wait=at.say_waiting,
        )

    done = " ".join([at.write(work, name="abort"), *said])
    at.emit(PhaseChanged(now(), f"Aborted. {done}", Phase.ABORTED))
    return done


def take_up(at: Access, *, stop: threading.Event | None = None) -> str:
    """Go on with the table that has the migration's name now; see :meth:`embedtui.engine.Engine.adopt`."""
    migration = at.under_way()

    stopped = stop or threading.Event()

    def work(conn: Connection) -> tuple[str, tuple[BatchJob, ...]]:
        upgrade(conn)
        jobs = open_jobs(conn, migration.id)
        with alone(conn, migration):
            return adopt(conn, migration, stop=stopped, on_wait=at.say_waiting), jobs

    done, jobs = at.write(work, name="adopt")
    done = " ".join([done, *cancel_jobs(jobs, migration, at.environ, stopped)])  # their rows were the other table's
    at.note(f"Adopted. {done}")
    return done


def what_adopting_takes(at: Access) -> tuple[str, ...]:
    """The exact SQL of an adoption, in order."""
    migration = at.under_way()

    def work(conn: Connection) -> tuple[str, ...]:
        plan = adoption(conn, migration)
        return shown_sql(conn, [*plan.beside, *plan.switch])

    return at.write(work, name="adopt")
