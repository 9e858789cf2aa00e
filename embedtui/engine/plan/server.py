"""What a migration asks of the server beside the table: routines that may be executed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.engine.plan.draft import Draft
from embedtui.model import Check
from embedtui.postgres.catalog.server import NEEDED, forbidden_routines
from embedtui.postgres.names import shown_column

MEASURES = {
    "max_replica_lag_seconds": ("pg_current_wal_lsn()", "pg_stat_get_wal_senders()"),
    "max_wal_mb_per_second": ("pg_current_wal_lsn()",),
    "max_lock_waits": ("pg_lock_status()", "pg_blocking_pids(integer)"),
}
"""Routines that a hold is measured by, by its setting of ``throttle``."""


def routine_checks(conn: Connection[Any], draft: Draft, settings: Settings) -> Iterator[Check]:
    """Routines of the catalog that this role may not execute: those that nothing goes without, and measures."""
    role = shown_column(draft.server.role)
    lacking = forbidden_routines(conn, {*NEEDED, *(each for routines in MEASURES.values() for each in routines)})
    missing = [name for name in lacking if name in NEEDED]
    if missing:
        grants = " ".join(f"GRANT EXECUTE ON FUNCTION pg_catalog.{name} TO {role};" for name in missing)
        yield Check("routines", "fail", f"Role {role} may not execute {', '.join(missing)}.", grants)
    unmeasured = [
        name
        for name, routines in MEASURES.items()
        if getattr(settings.throttle, name) is not None and not set(routines).isdisjoint(lacking)
    ]
    if unmeasured:
        yield Check(
            "measures",
            "unknown",
            f"Not to be measured here, so nothing is held for it: {', '.join(unmeasured)}"
            f" ({role} may not execute {', '.join(name for name in lacking if name not in NEEDED)}).",
        )
