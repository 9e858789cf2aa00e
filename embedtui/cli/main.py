"""The entry point: the dashboard without a command, and every error as one line and an exit code."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import psycopg

import embedtui
from embedtui.cli import streams
from embedtui.cli.common import ExampleCommand, json_option
from embedtui.cli.evidence import compare, decide, search, verify
from embedtui.cli.output import emit_json, note, plain, say
from embedtui.cli.setup import init, plan
from embedtui.cli.show import demo, show
from embedtui.cli.switch import abort, cleanup, cutover, rollback
from embedtui.cli.work import faults, index, log, pace, pause, resume, run, status, stop
from embedtui.config import load_settings
from embedtui.errors import EmbedtuiError, ExitCode, Interrupted, SettingsError
from embedtui.postgres.connect import translate
from embedtui.redaction import redact

_COMMANDS = (
    demo, init, plan, run, status, index, compare, search, decide, verify, cutover, rollback, pause, resume, stop,
    pace, faults, cleanup, abort, log,
)  # fmt: skip


class _InOrder(click.Group):
    """Commands in the order of the journey, and a near miss for a misspelt one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            formatter.write("  embedtui demo\n")
            formatter.write("  embedtui init --table documents --new-model text-embedding-3-large --dimensions 768\n")
        with formatter.section("Exit codes"):
            formatter.write_text(
                "0 well, 1 unexpected, 2 usage or settings, 3 database, 4 provider, 5 not clean or gate not passed, "
                "6 refused in this state, 130 interrupted (run again to go on)"
            )


@click.group(
    cls=_InOrder,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--readonly", is_flag=True, help="Only watch: no key changes anything.")
@click.option("--name", metavar="NAME", help="Route name of the migration to show.")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file.")
@click.version_option(embedtui.__version__, prog_name="embedtui", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, readonly: bool, name: str | None, config: Path | None) -> None:
    """Move a production pgvector table to a new embedding model: no downtime, no lost data, rollback in one keystroke.

    Without a command the dashboard opens; before anything is set up it asks for a table, or shows the
    demo. Settings come from flags, the environment and .env, then embedtui.toml.
    """
    if ctx.invoked_subcommand is not None:
        if readonly or name or config:
            raise click.UsageError(f"Write the options after {ctx.invoked_subcommand}.", ctx)
        return
    settings = load_settings({"name": name}, config=config)
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise SettingsError(
            "The dashboard needs a terminal (stdin, stdout and stderr).",
            hint="Without one there are commands, e.g. `embedtui status`.",
        )
    ctx.exit(show(settings, readonly=readonly, config=config))


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


for _command in (*_COMMANDS, version):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code (see :class:`embedtui.errors.ExitCode`); never a traceback.

    ``EMBEDTUI_DEBUG=1`` adds one, with its secrets redacted.
    """
    streams.prepare()
    sys.exit(streams.finish(run_command(list(sys.argv[1:] if arguments is None else arguments))))


def run_command(arguments: list[str]) -> int:
    """Run a command; return its exit code."""
    if any("\udc80" <= letter <= "\udcff" for argument in arguments for letter in argument):
        return _fail(
            SettingsError("An argument is not valid UTF-8.", hint="Type it in a UTF-8 terminal."), title="Usage"
        )
    try:
        result: Any = cli.main(arguments, prog_name="embedtui", standalone_mode=False)
        return result if isinstance(result, int) else ExitCode.OK
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except click.ClickException as error:
        return _fail(SettingsError(f"{error.format_message()}".rstrip("."), hint=_usage_hint(error)), title="Usage")
    except (KeyboardInterrupt, click.Abort) as error:
        return _fail(Interrupted("Stopped.", hint="Run the command again to go on."), cause=error)
    except EmbedtuiError as error:
        return _fail(error)
    except psycopg.Error as error:
        return _fail(translate(error), cause=error)
    except SystemExit:
        # click's way of saying that the reader has seen enough (`embedtui plan | head`)
        return ExitCode.OK
    except Exception as error:  # the last resort: a bug is one line too
        if streams.reader_gone(error):
            return ExitCode.OK
        told = isinstance(error, OSError) and error.strerror  # a full disk under stdout
        text = told or f"{type(error).__name__}: {error}"
        return _fail(EmbedtuiError(text, hint="EMBEDTUI_DEBUG=1 shows where; please report it."), cause=error)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"See `{context.command_path} --help`." if context is not None else "See `embedtui --help`."


def _fail(error: EmbedtuiError, *, title: str = "", cause: BaseException | None = None) -> int:
    message = plain(error.message).rstrip()
    if error.hint and not message.endswith((".", "?", "!", ":", ";")):
        message += "."
    note(f"embedtui: {title or error.title}: {message} {plain(error.hint)}".rstrip())
    if os.environ.get("EMBEDTUI_DEBUG") == "1":
        note(redact("".join(traceback.format_exception(cause or error))))
    return error.exit_code
