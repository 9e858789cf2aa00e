"""Strategy ``search_path``: roles of applications that know only a table's name find the routed view, or the table."""

from __future__ import annotations

from psycopg import sql

from embedtui.config import CutoverSettings
from embedtui.errors import Refused
from embedtui.formatting import counted
from embedtui.model import Blocker, Migration, Side
from embedtui.postgres.catalog.role_paths import RolePath, count_sessions, read_paths, roles_on_path, set_path_sql
from embedtui.postgres.connect import Connection
from embedtui.postgres.names import shown, shown_column
from embedtui.postgres.sides import routed_view
from embedtui.redaction import redact

_MAY_USE = """
SELECT has_schema_privilege(%(role)s, %(schema)s, 'USAGE') AND has_table_privilege(%(role)s, %(view)s::oid, 'SELECT')
"""

_FIRST = """
SELECT n.nspname::text FROM unnest(%s::text[]) WITH ORDINALITY p (name, place)
  JOIN pg_namespace n ON n.nspname = CASE p.name WHEN '$user' THEN %s ELSE p.name END
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %s
 ORDER BY p.place LIMIT 1
"""


def search_path_blockers(conn: Connection, migration: Migration, settings: CutoverSettings) -> tuple[Blocker, ...]:
    """Why the roles' sessions could not be moved now."""
    view = routed_view.find(conn, migration)
    if view is None:
        message = "Strategy search_path needs the routed view."
        return (Blocker("search_path_view", message, "Make it: embedtui view"),)
    found = read_paths(conn, settings.roles)
    missing = sorted(set(settings.roles) - {each.role for each in found})
    blockers = [Blocker("search_path_role", f"There is no role {role}.", "Correct cutover.roles.") for role in missing]
    for each in found:
        blockers += _role_blockers(conn, migration, view, each)
    if migration.scope is not None:
        blockers.append(
            Blocker(
                "search_path_scope",
                f"Through {view} these roles find the rows where {redact(migration.scope.given)} alone.",
                "Have another role search and write the others, and override this.",
                overridable=True,
            )
        )
    if migration.old_model.dimensions == migration.new_model.dimensions and not settings.hook:
        blockers.append(
            Blocker(
                "search_path_equal_dimensions",
                "Both models have the same dimensions: an application whose model is not switched in the same moment"
                " searches wrong vectors unnoticed.",
                "Stop it and give a reason, or set cutover.hook to switch and restart it.",
                overridable=True,
            )
        )
    return tuple(blockers)


def _role_blockers(
    conn: Connection, migration: Migration, view: routed_view.RoutedView, found: RolePath
) -> list[Blocker]:
    role, schema = shown_column(found.role), shown_column(view.name.schema)
    blockers = []
    if not found.alterable:
        blockers.append(_may_not(found.role, conn.info.user))
    if not found.logs_in:
        why = f"Role {role} opens no session itself: what is set for it counts for none."
        blockers.append(Blocker("search_path_role", why, "Name the role that the application connects as."))
    may = conn.execute(_MAY_USE, {"role": found.role, "schema": view.name.schema, "view": view.oid}).fetchone()
    if may != (True,):
        why = f"Role {role} may not use {view}: its path would pass it over, and find the old vectors."
        blockers.append(Blocker("search_path_rights", why, "Grant it what it needs on the table, then: embedtui view"))
    path = found.without(view.name.schema)
    first = conn.execute(_FIRST, [list(path), found.role, migration.table.name]).fetchone()
    if first != (migration.table.schema,):
        why = f"Role {role} does not find {shown(migration.table)} by its search path ({_shown(path)})"
        why += f": it finds one in {first[0]}." if first else ": it names the schema itself, or sets a path of its own."
        blockers.append(
            Blocker("search_path_own", why, f"Put {schema} where it says so, and use another strategy.", True)
        )
    return blockers


def _may_not(role: str, me: str) -> Blocker:
    name = shown_column(role)
    return Blocker(
        "search_path_role",
        f"This role may not alter role {name}.",
        f"A superuser: GRANT {name} TO {shown_column(me)} WITH ADMIN OPTION, and ALTER ROLE {shown_column(me)}"
        " CREATEROLE; or alter it by hand and use strategy pointer.",
    )


def _shown(path: tuple[str, ...]) -> str:
    return ", ".join(map(shown_column, path)) or "empty"


def move_roles(conn: Connection, migration: Migration, settings: CutoverSettings, side: Side) -> str:
    """Have new sessions of the roles find ``side``, in the transaction that moves the pointer; what was run.

    A rollback gives each what it would have without us; a role that is gone, or was moved by hand, is left alone.

    Raises:
        Refused: a role may no longer be altered; nothing has moved.
    """
    view = routed_view.find(conn, migration)
    schema = view.name.schema if view is not None else routed_view.name_of(migration).schema
    done: list[sql.Composed] = []
    for each in read_paths(conn, settings.roles):
        path = each.with_schema(schema) if side is Side.NEW else each.without(schema)
        if path == each.path:
            continue
        if not each.alterable:
            blocker = _may_not(each.role, conn.info.user)
            raise Refused(blocker.message, hint=blocker.advice)
        done.append(set_path_sql(conn, each, path))
        conn.execute(done[-1])
    return "; ".join(statement.as_string(conn) for statement in done)


def left_on(conn: Connection, migration: Migration, settings: CutoverSettings, side: Side) -> str:
    """Whom a flip to ``side`` has not reached by the search path; empty where there is nobody."""
    view = routed_view.find(conn, migration)
    if view is None:
        return ""
    roles = settings.roles if settings.strategy == "search_path" else ()
    said = []
    sessions = count_sessions(conn, roles) if roles else 0
    if sessions:
        opened = counted(sessions, "session of", "sessions of")
        said.append(f"{opened} {', '.join(map(shown_column, roles))} follow when opened anew: renew the pool.")
    if side is Side.OLD:
        for role in roles_on_path(conn, view.name.schema):
            who = f"Role {shown_column(role)}" if role else "The database"
            said.append(f"{who} still has {shown_column(view.name.schema)} in its search path: it finds new vectors.")
    return " ".join(said)
