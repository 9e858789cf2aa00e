"""How this table's application is switched: who follows now, the way that serves, and the lines to change."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection, errors, sql

from embedtui.engine.access import Access
from embedtui.engine.cutover.strategies import LIMITS, cutover_settings
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.placement import choose_placement
from embedtui.engine.plan.presets import recognise
from embedtui.engine.plan.presets.switching import Way, alone, lines_of, ways_of
from embedtui.formatting import counted
from embedtui.model import Check, Migration, PlacementKind
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import is_ours
from embedtui.postgres.names import relation, shown, shown_column
from embedtui.postgres.sides import routed_view
from embedtui.postgres.state.listeners import read_listeners
from embedtui.redaction import redact

COMMAND = "embedtui cutover --how"
MAKE_VIEW, ASK_FOR_VIEW = "embedtui view\n", "view = true\n"
VIEW_STEPS = {MAKE_VIEW: "shell, before the cutover", ASK_FOR_VIEW: "embedtui.toml, before the first run"}
SHOWN = 3
"""Roles that are named in a line."""

# Of a role that may not see other sessions' doings, names and applications are all there is.
_CONNECTED = f"""
SELECT usename::text, application_name, count(*)::int FROM pg_catalog.pg_stat_activity
 WHERE datname = pg_catalog.current_database() AND usename IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
   AND NOT {is_ours()}
   AND pg_catalog.has_table_privilege(usesysid, %s::oid, 'SELECT')
 GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""


@dataclass(frozen=True, slots=True)
class Connected:
    """Sessions of a role that may read the table."""

    role: str
    application: str
    sessions: int


@dataclass(frozen=True, slots=True)
class Described:
    """A way with this migration's names in its lines."""

    title: str
    strategy: str
    possible: str
    """Why it is not, as things stand; empty where it is."""
    lines: tuple[tuple[str, str], ...]
    caution: str
    lacks: str = ""
    """The first step, where the routed view that it goes by is neither there nor asked for."""


@dataclass(frozen=True, slots=True)
class HowTo:
    """What is known of the applications of a table."""

    framework: str
    """That made the table; empty for none that is known."""
    strategy: str
    """As the settings have it."""
    limit: str
    """What that strategy cannot promise."""
    routers: int
    """Routers heard from, integrations among them."""
    connected: tuple[Connected, ...]
    ways: tuple[Described, ...]
    """The one to take first."""

    def __str__(self) -> str:
        heard = counted(self.routers, "Router was heard from", "Routers were heard from")
        who = [heard if self.routers else "No Router was heard from"]
        roles: dict[str, int] = {}
        for each in self.connected:
            roles[each.role] = roles.get(each.role, 0) + each.sessions
        named = [f"{shown_column(role)} ({counted(n, 'session', 'sessions')})" for role, n in roles.items()]
        if named:
            more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
            who.append(f"connected now: {', '.join(named[:SHOWN])}{more}")
        way = self.ways[0]
        return f"{'; '.join(who)}. {way.title[:1].upper()}{way.title[1:]}."


def how_to(conn: Connection[tuple[object, ...]], migration: Migration) -> HowTo:
    """How the applications of a migration's table are switched; of one that has not begun, too. Reads only."""
    facts = inspect_oid(conn, migration.table_oid)
    preset = recognise(facts)
    connected = tuple(Connected(*row) for row in conn.execute(_CONNECTED, [migration.table_oid]))  # type: ignore[arg-type]
    framework = preset.name if preset is not None else ""
    strategy = cutover_settings(migration).strategy
    there = routed_view.find(conn, migration) is not None
    begun = conn.execute("SELECT to_regclass('embedtui.listener') IS NOT NULL").fetchone() == (True,)
    return HowTo(
        framework=framework,
        strategy=strategy,
        limit=LIMITS[strategy],
        routers=len(read_listeners(conn, migration.name)) if begun else 0,
        connected=connected,
        ways=tuple(_described(way, migration, connected, there) for way in ways_of(framework)),
    )


def _described(way: Way, migration: Migration, connected: tuple[Connected, ...], there: bool) -> Described:
    view = routed_view.name_of(migration)
    scope = "" if migration.scope is None else " ".join(redact(migration.scope.given).split())
    table = shown(migration.table)
    names = {
        "name": migration.name,
        "routing": f"{migration.name!r}{'' if view.schema == f'{migration.name}_v2' else f', schema={view.schema!r}'}",
        **alone(scope),
        "table": migration.table.name,
        "schema": migration.table.schema,
        "table_sql": table,
        "table_literal": sql.Literal(table).as_string(None),
        "column": shown_column(migration.old_column),
        "view": relation(view).as_string(None),
        "view_schema": shown_column(view.schema),
        "view_schema_js": repr(view.schema),
        "vector": f"{shown_column(migration.vector_schema)}.{migration.vector_type}",
        "vector_schema": shown_column(migration.vector_schema),
        "old_model": migration.old_model.name or "…",
        "new_model": migration.new_model.name,
        "new_dimensions": migration.new_model.dimensions,
        "role": connected[0].role if connected else "…",
    }
    possible = ""
    if migration.placement is PlacementKind.TABLE and way.view and way.strategy == "pointer":
        possible = (
            "This is a side table: it follows once a cleanup folds that (`embedtui view` asks for the view); with"
            ' placement "column" it follows the cutover.'
        )
    elif migration.placement is PlacementKind.TABLE and (way.view or way.strategy == "rename"):
        possible = 'It needs placement "column", and this is a side table.'
    elif scope and way.strategy == "rename":
        possible = "Rows outside of the scope are searched by the name that it would exchange: a search asks the route."
    caution = way.caution
    if scope and way.view:
        caution = f"{caution} By the view only the rows where {scope} are found and written: keep others apart.".strip()
    lines = lines_of(way, names)
    lacks = "" if there or possible or not way.view else _first_step(migration, lines)
    if lacks:
        lines = ((VIEW_STEPS[lacks], lacks), *lines)
    return Described(way.title, way.strategy, possible, lines, caution, lacks.strip())


def _first_step(migration: Migration, lines: tuple[tuple[str, str], ...]) -> str:
    """What brings the routed view; empty where the settings, or a later line, say it."""
    if migration.id:
        return MAKE_VIEW
    said = migration.stored.view or any("view = true" in text for _, text in lines)
    return "" if said else ASK_FOR_VIEW


def read_how(at: Access) -> HowTo:
    """As :func:`how_to`, of the migration, or of what the settings would begin."""
    settings, migration = at.settings, at.migration()
    if migration is None and (settings is None or settings.table is None):
        at.require()

    def read(conn: Connection[tuple[object, ...]]) -> HowTo:
        if migration is not None:
            return how_to(conn, migration)
        assert settings is not None
        draft = resolve(conn, settings)
        return how_to(conn, draft.migration(choose_placement(draft, settings)[0]))

    return at.read(read)


def how_check(conn: Connection[tuple[object, ...]], migration: Migration, *, planned: bool = False) -> Check:
    """The same in a line, for the plan (when nobody can follow yet) and the cutover's dialog."""
    try:
        found = how_to(conn, migration)
    except (errors.LockNotAvailable, errors.QueryCanceled):
        return Check("application", "unknown", "Not known who follows: the table is locked.", f"Ask again: {COMMAND}")
    way = found.ways[0]
    served = {each.strategy for each in found.ways}
    other = f" The settings say strategy {found.strategy}." if found.strategy not in ("pointer", *served) else ""
    wrong = f" {way.possible}" if way.possible else ""
    if way.lacks:
        wrong = f" The routed view is not {'there' if migration.id else 'asked for'}: {way.lacks}"
    follows = planned or found.routers > 0 or found.strategy in served - {"pointer"}
    result = "pass" if follows and not wrong else "warn"
    return Check("application", result, f"{found}{other}{wrong}", f"The lines to change, and other ways: {COMMAND}")
