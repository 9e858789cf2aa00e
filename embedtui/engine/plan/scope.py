"""Checks of a migration's scope: no other migration of the table may have a row in common with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from embedtui.config import Settings
from embedtui.engine.cutover.strategies import cutover_settings
from embedtui.errors import Refused
from embedtui.model import Check, Migration
from embedtui.postgres.expressions import disjoint
from embedtui.postgres.names import shown
from embedtui.postgres.state import migrations as state


def scope_checks(conn: Connection[Any], migration: Migration, settings: Settings) -> Iterator[Check]:
    """What the scope means for this migration, and for others of the same table."""
    if migration.scope is not None:
        yield Check("scope", "pass", f"{migration.scope.given}: other rows are not read, embedded or written")
        if cutover_settings(migration).strategy == "rename":
            yield Check(
                "strategy",
                "fail",
                f"With a scope the rows outside it are searched by the old column's name; rename gives it away"
                f" ({settings.origin('cutover.strategy')}).",
                "Use another strategy: pointer, env_file or hook.",
            )
    beside = overlapping(conn, migration)
    if beside is not None:
        yield Check("other migrations", "fail", *beside)


def overlapping(conn: Connection[Any], migration: Migration) -> tuple[str, str] | None:
    """(why, way out) where a live migration of the table may have a row in common with this one; else None."""
    for other in state.live_migrations_of(conn, migration.table_oid):
        if other.name == migration.name:
            continue
        table = shown(migration.table)
        if migration.scope is None or other.scope is None:
            of = "all rows" if other.scope is None else f"the rows where {other.scope.given}"
            why = f"The migration {other.name} of {of} of {table} is under way, and this one would move the same rows."
            return why, "Bring it to its end first, or give each a scope of its own."
        if not disjoint(conn, migration.table, migration.scope, other.scope):
            return (
                f"Rows of {table} could be in the scope of the migration {other.name}, too ({other.scope.given}).",
                "Write both scopes so that they exclude one another: the same column with other values or ranges.",
            )
    return None


def require_disjoint(conn: Connection[Any], migration: Migration) -> None:
    """As :func:`overlapping`, for the transaction that begins a migration.

    Raises:
        Refused: a row could be in both.
    """
    beside = overlapping(conn, migration)
    if beside is not None:
        raise Refused(beside[0], hint=beside[1])
