"""`view`: the routed view, for applications that find their table by a search path."""

from __future__ import annotations

from contextlib import closing

import click

from embedtui.cli.common import ExampleCommand, engine_for, json_option, stop_signals, target_options
from embedtui.cli.output import emit_json, plain, say
from embedtui.cli.switch import tell
from embedtui.config import Settings
from embedtui.engine import view as routed
from embedtui.engine.access import Access


@click.command(cls=ExampleCommand, example="embedtui view\nembedtui view --sql\nembedtui view --drop")
@target_options
@click.option("--schema", "view_schema", metavar="SCHEMA", help="Where to make it; default <name>_v2.")
@click.option("--drop", is_flag=True, help="Take it away, where nothing needs it.")
@click.option("--sql", "only_sql", is_flag=True, help="Print the exact SQL and do nothing.")
@json_option
def view(settings: Settings, view_schema: str | None, drop: bool, only_sql: bool, as_json: bool) -> None:
    """Show, make or drop the routed view, for applications that know only a search path.

    Without an option it is made, or brought up to date. It is called like the table, in a schema of its own, and has
    the new vectors under the old column's name: an application that has the schema first in its search path uses them.
    """
    with (
        engine_for(settings, tell) as engine,
        stop_signals() as stop,
        closing(Access(engine.dsn, engine.require().name, settings, tell, None)) as at,
    ):
        if only_sql:
            status = routed.view_status(at, drop=drop)
            if as_json:
                emit_json(status)
            for statement in () if as_json else status.statements:
                say(f"{plain(statement, 10_000)};")
            return
        if drop:
            name = routed.drop_view(at, stop)
            if as_json:
                emit_json({"dropped": name})
            else:
                say(f"{plain(name)} is gone.")
            return
        made = routed.make_view(at, view_schema, stop)
    if as_json:
        emit_json(made)
    elif not made.name:
        say(f"A cleanup makes it, in {plain(made.schema)}, as it folds the side table; until then the old side serves.")
    else:
        say(f"{plain(made.name)} shows the new side. For the application: SET search_path = {plain(made.schema)}, …")
