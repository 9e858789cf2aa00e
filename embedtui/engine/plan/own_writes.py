"""Which of the application's triggers embedtui's own writes of vectors fire, and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection

from embedtui.engine.plan.draft import Draft
from embedtui.model import Check, Migration, PlacementKind
from embedtui.postgres.connect import SEARCH_PATH
from embedtui.postgres.names import shown_column
from embedtui.postgres.sides.own_writes import GRANTABLE_SINCE, PARAMETER, OwnWrites, look


def own_write_checks(conn: Connection[Any], draft: Draft, migration: Migration) -> Iterator[Check]:
    """What the work's own updates of the table set off."""
    beside = migration.placement is PlacementKind.COLUMN
    if not beside and draft.old_model.unasked:
        return
    found = look(conn, migration)
    if found.passed:
        names = ", ".join(dict.fromkeys(shown_column(each.name) for each in found.passed))
        yield Check(
            "triggers",
            "pass",
            f"embedtui's own writes of vectors, as {shown_column(draft.server.role)}, do not fire {names};"
            " fire_triggers = true has them fired, where one keeps copies of rows",
        )
    if not found.fired:
        return
    why, remedy = _why(found, draft)
    what = (
        "The backfill updates every row and"
        if beside
        else "After the cutover each edited row gets its old vector anew, for a rollback: an update that"
    )
    other = (
        "Use placement table, unless that is harmless."
        if beside
        else "old_model.retired = true leaves the old side as it is, and a rollback stale."
    )
    yield Check("triggers", "warn", f"{what} fires {found.names}{why}.", f"{remedy}{other}")
    reliant = {each.relies: each.name for each in found.fired if each.relies}
    if reliant:
        yield Check(
            "trigger functions",
            "warn",
            f"The functions of {', '.join(reliant.values())} have no search path of their own, and run with that of"
            f" embedtui's sessions ({SEARCH_PATH}): what they name without its schema is not found there.",
            f"Write the schemas in them, or: ALTER FUNCTION {next(iter(reliant))} SET search_path = …, pg_temp;",
        )


def _why(found: OwnWrites, draft: Draft) -> tuple[str, str]:
    """Why these are not passed, and what would change that."""
    role = shown_column(draft.server.role)
    match found.obstacle:
        case "set":
            return " (fire_triggers = true)", ""
        case "looks":
            return f", since {', '.join(found.because)} may be about the vector", ""
        case "replica":
            return f"; not to fire them would have {', '.join(found.because)} fire (ENABLE REPLICA)", ""
        case "always":
            names = ", ".join(found.because)
            return f", since what {names} does (ENABLE ALWAYS) would meet no foreign keys if they were not fired", ""
        case "privilege" if draft.server.version >= GRANTABLE_SINCE:
            grant = f"GRANT SET ON PARAMETER {PARAMETER} TO {role}; lets its writes pass them (and so each worker's). "
            return f", which role {role} may not pass", f"{grant}Or: "
        case "privilege":
            return ", which before PostgreSQL 15 a superuser alone may pass", ""
    return " (ENABLE ALWAYS)", ""
