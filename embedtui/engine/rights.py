"""Grants and row security of the table, followed by the new side."""

from __future__ import annotations

import threading
from collections.abc import Callable

from embedtui.model import Migration, Phase
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import run_ddl
from embedtui.postgres.names import shown
from embedtui.postgres.sides import rights
from embedtui.postgres.sides.layout import new_side
from embedtui.postgres.state.audit import add_audit

PATIENCE = 20.0
"""Seconds to wait for the lock that row security takes; the next look tries again."""

_FOLLOWED = (Phase.BACKFILL, Phase.INDEX, Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK)


def follow_rights(
    conn: Connection,
    migration: Migration,
    stop: threading.Event,
    on_wait: Callable[[str], None] | None = None,
) -> str:
    """Bring the rights on the new side in line with the table's; gives what was done or is left to do, "" for nothing.

    Raises:
        LockTimeout, Interrupted: as :func:`~embedtui.postgres.ddl.run_ddl`.
    """
    if migration.phase not in _FOLLOWED:
        return ""
    statements = rights.differences_sql(conn, migration)
    if not statements:
        return ""
    side = new_side(migration).table
    done = "; ".join(statement.as_string(conn) for statement in statements)
    if not rights.may_change(conn, migration):
        return f"Rights on {shown(side)} are not those on {shown(migration.table)}; a run as its owner would: {done}"
    run_ddl(conn, statements, migration=migration.id, stop=stop, on_wait=on_wait, relations=[side], patience=PATIENCE)
    add_audit(conn, migration.id, "rights", done)
    return f"Rights followed: {done}"
