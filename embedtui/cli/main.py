"""The entry point: the dashboard without a command, and every error as one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import click

import embedtui
from embedtui.cli import streams
from embedtui.cli.streams import write_example
from embedtui.errors import EmbedtuiError, ExitCode, Interrupted, SettingsError

COMMANDS = {
    "demo": ("show", "Watch a migration of 5,000 documents, with nothing to set up."),
    "init": ("setup", "Find a table's vectors, key and texts, and write embedtui.toml."),
    "plan": ("setup", "Show what a migration would do, find and cost; changes nothing."),
    "run": ("work", "Do the work that is due: prepare, backfill, index."),
    "status": ("work", "Show where a migration stands, wherever its workers run."),
    "index": ("work", "Build the new side's index now, without waiting for the run; or hold it back."),
    "compare": ("evidence", "Search every query on both sides, and record an evaluation."),
    "search": ("evidence", "Search both sides for a text of your own, and see the two rankings."),
    "decide": ("evidence", "Record your verdict on a query: new, old, same or bad; none takes it back."),
    "queries": ("evidence", "List the queries that are kept for comparisons, or forget some."),
    "verify": ("evidence", "Scan every row: missing, stale, of the wrong model, faulty."),
    "bridge": ("bridge", "The old model is dead: have the new one's queries search the old vectors."),
    "cutover": ("switch", "Move reads to the new side: a pointer, in milliseconds."),
    "rollback": ("switch", "Move all reads back to the old side, at once and unasked."),
    "pause": ("steering", "Hold the work of all workers."),
    "resume": ("steering", "Let held work go on."),
    "stop": ("steering", "End the processes that do the work, wherever they run: also one that outlived its terminal."),
    "reload": (
        "steering",
        "Have all workers read their settings again: endpoint, key, limits, prices, throttle, index options.",
    ),
    "pace": ("steering", "Show the pace of all workers, or change it while they run."),
    "faults": ("work", "List rows that could not be embedded, and decide."),
    "adopt": ("ending", "Go on with a table that was made again, restored or swapped."),
    "cleanup": ("ending", "Drop the old side and finish."),
    "view": ("view", "Show, make or drop the routed view, for applications that know only a search path."),
    "abort": ("ending", "Give the migration up and take everything back."),
    "serve": ("serve", "Show the dashboard in a browser: on this machine, to watch."),
    "log": ("work", "Show the audit log: when, who, where, which act, why."),
    "grants": ("grants", "Show, or apply, the SQL that gives each database role what it needs and no more."),
    "version": ("version", "Print the versions that a bug report should name."),
}
"""Every command in the order of the journey: its module, and what `--help` says of it without loading that."""


def _start_log(context: click.Context, _: click.Parameter, file: Path | None) -> None:
    """Log to the file of the option, else of EMBEDTUI_LOG; the option may stand before or after the command."""
    if context.command is cli and file is None:
        return  # the command will, or the dashboard
    if file is not None or not context.find_root().meta.get(__name__):
        start_log(context, file)


def start_log(context: click.Context, file: Path | None = None) -> None:
    """Start this process's log; once it is, nothing unexpected gets lost."""
    import logging

    from embedtui import logs, redaction
    from embedtui.config.loading import beside, environment

    environ = environment(os.environ, *beside(context.params.get("config")), Path.cwd())
    redaction.remember(*redaction.secrets_of(environ))
    logs.start(file or environ.get(logs.VARIABLE))
    context.find_root().meta[__name__] = True
    logging.getLogger("embedtui").info("embedtui %s: %s", embedtui.__version__, context.info_name)


def _log_option() -> click.Option:
    return click.Option(
        ["--log-file"],
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        expose_value=False,
        callback=_start_log,
        help="Log here, with the tracebacks of bugs; also EMBEDTUI_LOG.",
    )


class _Commands(MutableMapping[str, click.Command]):
    """The commands by name, each loaded when it is looked up."""

    def __init__(self) -> None:
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            module = importlib.import_module(f"embedtui.cli.{COMMANDS[name][0]}")
            command: click.Command = getattr(module, name)
            command.params.append(_log_option())
            self._loaded[name] = command
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands are not taken away")

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __iter__(self) -> Any:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Journey(click.Group):
    """Commands in the order of the journey, listed without loading them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands = _Commands()
        self.params.append(_log_option())

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signatures)
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Example"):
            write_example(formatter, "embedtui demo")
            write_example(
                formatter, "embedtui init --table documents --new-model text-embedding-3-large --dimensions 768"
            )
        with formatter.section("Exit codes"):
            formatter.write_text(
                "0 well, 1 unexpected, 2 usage or settings, 3 database, 4 provider, 5 not clean or gate not passed, "
                "6 refused in this state, 130 interrupted (run again to go on)"
            )


@click.group(
    cls=_Journey,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--readonly", is_flag=True, help="Only watch: no key changes anything.")
@click.option("--name", metavar="NAME", help="Route name of the migration to show.")
@click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file (and the .env beside it)."
)
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
    from embedtui.cli.common import settings_of
    from embedtui.cli.show import show

    if not ctx.meta.get(__name__):
        start_log(ctx)
    served = "TEXTUAL_DRIVER" in os.environ  # in a browser: `embedtui serve`
    terminal = served or (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty())
    unusable = None
    try:
        settings = settings_of({"name": name}, config=config)
    except SettingsError as error:
        if readonly or not terminal or (config is not None and not config.is_file()):
            raise
        unusable = error
        settings = settings_of({"name": name}, config=config, text="")  # raises what is wrong elsewhere
    if not terminal:
        raise SettingsError(
            "The dashboard needs a terminal (stdin, stdout and stderr).",
            hint="Without one there are commands, e.g. `embedtui status`.",
        )
    ctx.exit(show(settings, readonly=readonly, config=config, unusable=unusable))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code (see :class:`embedtui.errors.ExitCode`); never a traceback.

    That is in the log file; ``EMBEDTUI_DEBUG=1`` shows it on stderr, too, with its secrets redacted.
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
    except SystemExit:
        # click's way of saying that the reader has seen enough (`embedtui plan | head`)
        return ExitCode.OK
    except Exception as error:  # noqa: BLE001 (the last resort: a bug is one line, too)
        if streams.reader_gone(error):
            return ExitCode.OK
        if isinstance(error, OSError) and error.strerror:  # a full disk under stdout
            return _fail(EmbedtuiError(error.strerror), cause=error)
        return _fail(_known(error), cause=error)


def _known(error: Exception) -> EmbedtuiError:
    """The error as one of ours, its traceback logged; the database's errors have words of their own."""
    from embedtui import logs

    if "psycopg" in sys.modules:
        import psycopg

        from embedtui.postgres.connect import translate

        if isinstance(error, psycopg.Error):
            logs.unexpected(error)
            return translate(error)
    return logs.unexpected(error)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"See `{context.command_path} --help`." if context is not None else "See `embedtui --help`."


def _fail(error: EmbedtuiError, *, title: str = "", cause: BaseException | None = None) -> int:
    import logging

    from embedtui.cli.output import note, plain
    from embedtui.tracebacks import formatted

    message = plain(error.message).rstrip()
    if error.hint and not message.endswith((".", "?", "!", ":", ";")):
        message += "."
    said = f"{title or error.title}: {message} {plain(error.hint)}".rstrip()
    note(f"embedtui: {said}")
    if os.environ.get("EMBEDTUI_DEBUG") == "1":
        note(formatted(cause or error))
    logging.getLogger("embedtui").info("exit %d, %s", error.exit_code, said)
    return error.exit_code
