"""The versions that a bug report should name."""

from __future__ import annotations

import platform

import click
import psycopg

import embedtui
from embedtui.cli.common import ExampleCommand, json_option
from embedtui.cli.output import emit_json, say


@click.command(cls=ExampleCommand, example="embedtui version --json")
@json_option
def version(as_json: bool) -> None:
    """Print the versions that a bug report should name."""
    found = {
        "embedtui": embedtui.__version__,
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
        "libpq": psycopg.pq.version_pretty(psycopg.pq.version()),
        "system": platform.platform(),
    }
    if as_json:
        emit_json(found)
    else:
        for name, value in found.items():
            say(f"{name} {value}")
