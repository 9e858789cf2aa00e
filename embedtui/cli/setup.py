"""`init` and `plan`: choosing what is moved, and seeing what that means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from embedtui.cli.common import ExampleCommand, interactive, json_option, settings_options
from embedtui.cli.output import emit_json, note, plain, say, table, to_data
from embedtui.config import CONFIG_NAME, Settings, left_out
from embedtui.config.values import at_commas
from embedtui.engine.plan.draft import Draft, resolve
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.setup import PROPOSED, decided, found_tables, missing_keys, open_texts, write_chosen
from embedtui.errors import ExitCode, SettingsError
from embedtui.formatting import counted, duration, money, number, size
from embedtui.model import Plan
from embedtui.postgres.connect import Connection, connect
from embedtui.postgres.names import shown
from embedtui.providers.patience import Asking

STATEMENT_COLUMNS = 120
"""Of a line with a statement: its beginning tells what it does."""

_MARKS: Mapping[str, str] = {"pass": "ok  ", "warn": "warn", "fail": "FAIL", "unknown": "?   "}


@click.command(
    cls=ExampleCommand,
    example="embedtui init --table documents --content title --content body "
    "--new-model text-embedding-3-large --dimensions 768",
)
@settings_options
@json_option
def init(settings: Settings, config: Path | None, as_json: bool) -> None:
    """Find a table's vectors, key and texts, and write embedtui.toml.

    What is not said is looked up in the catalog; what could be meant in two ways is asked for, or without a terminal
    refused with the choices. Changes nothing in the database. An existing file keeps its comments and other settings.
    """
    path = config or Path.cwd() / CONFIG_NAME
    draft, chosen = configure(settings, path, ask=interactive() and not as_json)
    if as_json:
        emit_json(
            {
                "path": path,
                "table": draft.facts.table,
                "key": draft.key.columns,
                "content": draft.content,
                "content_sql": None if draft.text is None else draft.text.given,
                "content_from": None if draft.elsewhere is None else draft.elsewhere.facts.table,
                "scope": None if draft.scope is None else draft.scope.given,
                "old": {"column": draft.old_column, "type": draft.old_type, "model": draft.old_model},
                "new": {"type": draft.new_type, "model": draft.new_model},
                "view": bool(chosen.value("view")),
                "framework": draft.preset.name if draft.preset is not None else None,
                "notices": draft.notices,
            }
        )
        return
    say(f"{path} written:")
    say(f"  table    {plain(shown(draft.facts.table))}, key {plain(', '.join(draft.key.columns))}")
    if draft.preset is not None:
        say(f"  made by  {plain(draft.preset.name)}, which embeds {plain(draft.preset.embeds)}")
    if draft.scope is not None:
        say(f"  rows     where {plain(draft.scope.given)}")
    say(f"  texts    {plain(', '.join(draft.content) if draft.text is None else draft.text.given)}")
    say(f"  vectors  {plain(draft.old_column)}, {draft.old_model.dimensions} dimensions, {plain(draft.old_model.name)}")
    say(f"  new      {plain(draft.new_model.name)}, {draft.new_model.dimensions} dimensions ({draft.new_type})")
    if draft.preset is not None and chosen.value("view"):
        of = ", of these rows alone" if draft.scope is not None else ""
        say(f"  view     its application follows by a routed view (view = true){of}; how: embedtui cutover --how")
    if unwritten := left_out(chosen):
        say(f"  {unwritten}")
    for notice in (*draft.notices, *([draft.preset.caution] if draft.preset and draft.preset.caution else [])):
        note(plain(notice))
    for variable in missing_keys(chosen, draft):
        note(f"{plain(variable)} is not set: put the key into the environment or .env, or set key_variable.")
    say("Next: embedtui plan")


def configure(settings: Settings, path: Path, *, ask: bool) -> tuple[Draft, Settings]:
    """Make every choice that a migration needs, and write them to ``path``; reads the database only.

    With ``ask`` an operator is asked for what is open. Raises SettingsError: it stays open, or cannot be.
    """
    with connect(settings.dsn, name="init", read_only=True) as conn:
        if settings.table is None:
            settings = settings.with_values({"table": _choose_table(conn)}, "init")
        if ask:
            settings = _ask_for_the_rest(conn, settings)
        draft = resolve(conn, settings)
        chosen = decided(conn, settings, draft)
    write_chosen(path, chosen)
    return draft, chosen


def _choose_table(conn: Connection) -> str:
    """The only table with vectors, or the one that the operator picks.

    Raises SettingsError: none, or several and nobody to ask.
    """
    tables = {each.name: each for each in found_tables(conn)}
    if not tables:
        raise SettingsError(
            "This database has no table with a vector column that this role may read.",
            hint="Check DATABASE_URL; `embedtui demo` shows the journey on data of its own.",
        )
    if len(tables) == 1:
        return next(iter(tables))
    if not interactive():
        raise SettingsError(
            f"{len(tables)} tables have vector columns: {', '.join(map(plain, tables))}.", hint="Say which: --table."
        )
    rows = [
        [
            *(str(place), plain(name), plain(each.column), each.type, number(each.rows), size(each.bytes)),
            plain(each.made_by),
        ]
        for place, (name, each) in enumerate(tables.items(), 1)
    ]
    for line in table(rows, ["", "table", "column", "type", "rows", "size", "made by"]):
        note(line)
    place = click.prompt("Which one", type=click.IntRange(1, len(tables)), err=True)
    return list(tables)[place - 1]


def _ask_for_the_rest(conn: Connection, settings: Settings) -> Settings:
    """Ask for the texts and the model where they are open."""
    texts = open_texts(conn, settings)
    if texts:
        note(f"Text columns: {', '.join(map(plain, texts))}")
        answer = click.prompt("Which are embedded (with commas between)", err=True)
        settings = settings.with_values({"content": at_commas(answer)}, "init")
    if settings.new_model.name is None:
        name = click.prompt("Model to move to", default=PROPOSED["new_model.name"], err=True)
        settings = settings.with_values({"new_model.name": name.strip()}, "init")
        proposed = int(PROPOSED["new_model.dimensions"])
        size = click.prompt("Its dimensions", type=click.IntRange(1, 16_000), default=proposed, err=True)
        settings = settings.with_values({"new_model.dimensions": size}, "init")
    return settings


@click.command(cls=ExampleCommand, example="embedtui plan --check-provider\nembedtui plan --sql > review.sql")
@settings_options
@click.option(
    "--check-provider",
    is_flag=True,
    help="Ask the new model for one vector (key, name, dimensions, limits), and embed up to 300 rows with the old model"
    " where it answers: they must reproduce the stored vectors.",
)
@click.option("--sql", "only_sql", is_flag=True, help="Print the exact SQL only.")
@json_option
@click.pass_context
def plan(ctx: click.Context, settings: Settings, check_provider: bool, only_sql: bool, as_json: bool) -> None:
    """Show what a migration would do, find and cost; changes nothing.

    Leaves with 5 where a check failed, and with 4 where the provider was asked and did not answer.
    """
    with connect(settings.dsn, name="plan", read_only=True) as conn:
        found = make_plan(conn, settings, check_provider=check_provider, asking=Asking(note))
    failed = any(check.result == "fail" for check in found.checks)
    unanswered = check_provider and any(each.name == "provider" and each.result == "warn" for each in found.checks)
    if as_json:
        emit_json({**to_data(found), "ready": not failed})
    elif only_sql:
        for statement in found.statements:
            say(statement)
    else:
        _print_plan(found, asked=check_provider)
    ctx.exit(ExitCode.NOT_CLEAN if failed else ExitCode.PROVIDER if unanswered else ExitCode.OK)


def _print_plan(found: Plan, *, asked: bool) -> None:
    rows = counted(found.rows, "row", "rows")
    if found.another:
        say("The migration of this table is done. What another one by these settings would do:")
    say(f"Table      {plain(shown(found.table))}, {rows}, {number(found.empty_rows)} with no text")
    say(f"Models     {plain(found.old_model)} -> {plain(found.new_model)}")
    say(f"Texts go   to {plain(found.endpoint) or 'no known endpoint'}")
    about = "" if found.estimated_cost is None else "about "
    cost = f"cost {about}{money(found.estimated_cost)} by the new model"
    say(f"Tokens     about {number(found.estimated_tokens)}, {cost}; edits, queries and the old model come on top")
    if found.proof_tokens:
        paid = f"{number(found.proof_tokens)} tokens, {money(found.proof_cost, unknown='price unknown')}"
        say(f"Proof      {paid} by the old model, taken just now; the first run asks once more, and counts it")
    say(f"Time       {duration(found.estimated_seconds)}" + _why_unknown(found, asked=asked))
    if found.batch is not None:
        offer = found.batch
        how = "chosen" if offer.chosen else "`embedtui run --batch`"
        within = f"within {duration(offer.seconds)} a job, {counted(offer.jobs, 'job', 'jobs')}"
        say(f"Batch      {'' if offer.cost is None else 'about '}{money(offer.cost)}, {within}: {how}")
    say(f"Placement  {found.placement.value}: {plain(found.placement_why)}")
    say()
    for check in found.worst_first:
        say(f"{_MARKS.get(check.result, check.result)}  {check.name}: {plain(check.detail)}")
        if check.advice:
            say(f"      {plain(check.advice)}")
    say()
    say("SQL of prepare and index (--sql prints it whole):")
    for statement in found.statements:
        say(f"  {plain(statement, STATEMENT_COLUMNS - 2)}")


def _why_unknown(found: Plan, *, asked: bool) -> str:
    if found.estimated_seconds is not None:
        return " at the provider's quota"
    return f": set by the provider's quota, {'which it did not tell' if asked else 'which --check-provider may tell'}"
