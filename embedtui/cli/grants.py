"""`grants`: the rights of each role, as SQL to review or applied."""

from __future__ import annotations

import click

from embedtui.cli.common import ExampleCommand, json_option, target_options
from embedtui.cli.output import emit_json, note, plain, say
from embedtui.config import Settings
from embedtui.engine.grants import grants as make_grants
from embedtui.postgres.state.privileges import Role


@click.command(
    cls=ExampleCommand,
    example="embedtui grants --worker embedtui_worker --application app --watcher oncall > grants.sql\n"
    "embedtui grants --worker embedtui_worker --apply",
)
@target_options
@click.option("--operator", metavar="ROLE", help="Owns the table: prepares, builds the index, cuts over, cleans up.")
@click.option("--worker", metavar="ROLE", help="Embeds, keeps both sides current, compares, verifies.")
@click.option("--application", metavar="ROLE", help="Routes, searches and writes by Router or SQL.")
@click.option("--watcher", metavar="ROLE", help="Looks at the dashboard; sees no keys, texts or vectors.")
@click.option("--apply", is_flag=True, help="Run it, in one transaction; else it is only printed.")
@json_option
def grants(
    settings: Settings,
    operator: str | None,
    worker: str | None,
    application: str | None,
    watcher: str | None,
    apply: bool,
    as_json: bool,
) -> None:
    """Show, or apply, the SQL that gives each database role what it needs and no more.

    What a role had in schema embedtui is taken away first. Run it once the operator has prepared (run --until 0), and
    again after an upgrade or when the table has new partitions.
    """
    named = {Role.OPERATOR: operator, Role.WORKER: worker, Role.APPLICATION: application, Role.WATCHER: watcher}
    made = make_grants(settings, {role: name for role, name in named.items() if name is not None}, apply=apply)
    if as_json:
        emit_json(made)
        return
    for statement in () if apply else ("BEGIN", *made.statements, "COMMIT"):
        say(f"{plain(statement, 10_000)};")
    for notice in made.notices:
        note(plain(notice, 1000))
    if apply:
        say(f"{len(made.statements)} statements applied.")
