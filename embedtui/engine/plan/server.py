"""What a migration asks of the server beside the table: routines that may be executed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.engine.plan.draft import Draft
from embedtui.model import Check
from embedtui.postgres.catalog.server import NEEDED, forbidden_routines, refused_calls
from embedtui.postgres.names import shown_column

MEASURES = {
    "max_replica_lag_seconds": ("pg_current_wal_lsn()", "pg_stat_get_wal_senders()"),
    "max_wal_mb_per_second": ("pg_current_wal_lsn()",),
    "max_lock_waits": ("pg_lock_status()", "pg_blocking_pids(0)"),
}
"""What a hold is measured by, by its setting of ``throttle``."""


def routine_checks(conn: Connection[Any], draft: Draft, settings: Settings) -> Iterator[Check]:
    """Routines of the catalog that this role may not execute: those that nothing goes without, and measures."""
    role = shown_column(draft.server.role)
    missing = forbidden_routines(conn, NEEDED)
    if missing:
        grants = " ".join(f"GRANT EXECUTE ON FUNCTION pg_catalog.{name} TO {role};" for name in missing)
        yield Check("routines", "fail", f"Role {role} may not execute {', '.join(missing)}.", grants)
    measured = {name: calls for name, calls in MEASURES.items() if getattr(settings.throttle, name) is not None}
    refused = refused_calls(conn, (call for calls in measured.values() for call in calls))
    unmeasured = [name for name, calls in measured.items() if not refused.keys().isdisjoint(calls)]
    if unmeasured:
        yield Check(
            "measures",
            "unknown",
            f"Not to be measured here, so nothing is held for it: {', '.join(unmeasured)}"
            f" ({'; '.join(f'{call}: {why}' for call, why in refused.items())}).",
        )
