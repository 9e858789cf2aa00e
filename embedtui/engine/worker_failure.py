"""What is kept of work that failed: why, for whom, and whether the others pause."""

from __future__ import annotations

import logging
import os

import psycopg

from embedtui.engine.access import Access
from embedtui.engine.backfill.job import now
from embedtui.errors import EmbedtuiError
from embedtui.model import Condition, Failed, FaultClass, Migration
from embedtui.postgres.connect import Connection, host_name
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import load_migration, set_condition, set_desired
from embedtui.postgres.state.workers import count_live_workers
from embedtui.tracebacks import described

_log = logging.getLogger("embedtui")


def pause_for(at: Access, migration: Migration, fault: EmbedtuiError) -> None:
    """Nobody goes on by these settings until an operator resumes it."""
    _log.error("the work is paused: %s", fault, exc_info=fault)

    def work(conn: Connection) -> None:
        with conn.transaction():
            set_desired(conn, migration.id, "pause", str(fault))
            set_condition(conn, migration.id, Condition.FAILED, str(fault))

    at.write(work)
    at.emit(Failed(now(), fault.message, FaultClass.CONFIGURATION, fault.hint))


def ended_by(at: Access, migration: Migration, error: Exception) -> None:
    """Say of what this worker ended: in the log, to everybody, and as the condition where nobody else works."""
    known = isinstance(error, EmbedtuiError)
    said = str(error) if known else described(error)
    if known:  # the traceback of another is logged where it is caught
        _log.error("the work ended by an error: %s", said, exc_info=error)

    def work(conn: Connection) -> None:
        with conn.transaction():
            stored = load_migration(conn, migration.name)
            if stored is not None and stored.desired == "pause" and stored.reason == said:
                return  # it paused the work for that, which the log has
            add_audit(conn, migration.id, "worker failed", f"{host_name()}:{os.getpid()}: {said}")
            wanted = stored is not None and stored.desired == "run" and not stored.phase.ended
            if wanted and not count_live_workers(conn, migration.id):
                set_condition(conn, migration.id, Condition.FAILED, said)

    try:
        at.write(work)
    except (EmbedtuiError, psycopg.Error) as unsaid:
        _log.warning("the audit log could not be told: %s", described(unsaid))
