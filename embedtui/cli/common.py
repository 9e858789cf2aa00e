"""What commands share: their options, the settings and the engine made from them, confirmations, stop signals."""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from embedtui.cli.output import note, plain
from embedtui.cli.streams import write_example
from embedtui.config import Settings, load_settings
from embedtui.config.loading import beside
from embedtui.config.values import at_commas
from embedtui.engine.plan.existing import meant_migration
from embedtui.errors import Refused
from embedtui.model import EventSink, Migration
from embedtui.postgres.names import shown
from embedtui.redaction import remember, secrets_of

if TYPE_CHECKING:
    from embedtui.engine import Engine

Command = TypeVar("Command", bound=Callable[..., Any])


class ExampleCommand(click.Command):
    """A command whose help ends with an example, printed as it is typed."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Add the example."""
        with formatter.section("Example"):
            for line in self.example.splitlines():
                write_example(formatter, line)


# ------------------------------------------------------------------------------------------------------ options

_CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file (and the .env beside it); without it ./embedtui.toml, then the user's.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
_NAME = click.option("--name", metavar="NAME", help="Route name of the migration; default is the table's name.")
_TABLE = click.option("--table", metavar="TABLE", help='Table, e.g. documents or app."My Docs".')

_SETTINGS: tuple[Callable[[Command], Command], ...] = (
    _TABLE,
    click.option("--schema", metavar="SCHEMA", help="Schema of the table; default is the search path."),
    click.option(
        "--key", metavar="COLUMN", multiple=True, help="Key columns, with commas or repeated; default: primary key."
    ),
    click.option(
        "--content",
        metavar="COLUMN",
        multiple=True,
        help="Columns whose text is embedded, likewise; or table.column, or SQL over a row.",
    ),
    click.option("--content-sql", metavar="SQL", help="Or SQL over the row that makes the text: payload->>'data'."),
    click.option("--content-from", metavar="TABLE", help="The other table that these are of, by a foreign key."),
    click.option("--content-via", metavar="COLUMN", multiple=True, help="Columns of it, where there are several."),
    click.option(
        "--where", "scope", metavar="SQL", help="Move only rows that fulfil this condition: collection_id = '…'."
    ),
    click.option("--column", metavar="COLUMN", help="Column with the old vectors."),
    click.option("--new-column", metavar="COLUMN", help="Column for the new vectors; default embedding_v2."),
    click.option("--new-model", metavar="MODEL", help="Model to move to; also EMBED_MODEL."),
    click.option("--dimensions", type=int, help="Its dimensions; also EMBED_DIMENSIONS."),
    click.option("--base-url", metavar="URL", help="Its endpoint; also OPENAI_BASE_URL."),
    click.option("--batch/--no-batch", default=None, help="Backfill by the provider's batch jobs, at half the price."),
    click.option("--old-model", metavar="MODEL", help="Model of the old vectors, where it is known."),
    click.option("--old-dimensions", type=int, help="Its dimensions; found in the column."),
    click.option("--old-base-url", metavar="URL", help="Its endpoint."),
    click.option("--old-retired", is_flag=True, default=None, help="The old model no longer answers."),
    click.option("--placement", metavar="KIND", help="auto, column (beside the old one) or table (a side table)."),
    click.option("--index", metavar="METHOD", help="hnsw, ivfflat or none."),
    click.option("--distance", metavar="KIND", help="cosine, l2 or ip; default as the old index."),
    click.option("--halfvec/--no-halfvec", default=None, help="16-bit vectors or not."),
    click.option("--view/--no-view", default=None, help="A routed view, for applications that know a search path."),
    click.option("--spend-cap", type=float, metavar="MONEY", help="Stop at this much money."),
    click.option("--strategy", metavar="KIND", help="pointer, env_file, hook, rename or search_path."),
    _NAME,
    _CONFIG,
)

_PATHS = {
    "column": "old_column",
    "new_model": "new_model.name",
    "dimensions": "new_model.dimensions",
    "base_url": "new_model.base_url",
    "batch": "new_model.batch",
    "old_model": "old_model.name",
    "old_dimensions": "old_model.dimensions",
    "old_base_url": "old_model.base_url",
    "old_retired": "old_model.retired",
    "index": "index.method",
    "spend_cap": "pacing.spend_cap",
    "strategy": "cutover.strategy",
}
_FLAGS = {
    "table", "schema", "key", "content", "content_sql", "content_from", "content_via", "scope", "new_column",
    "placement", "distance", "halfvec", "view", "name", *_PATHS,
}  # fmt: skip


def json_option(command: Command) -> Command:
    """``--json``, handed on as ``as_json``."""
    return _JSON(command)


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All flags that describe a migration, handed on as one ``settings``."""
    wrapped = _collect(command)
    for option in reversed(_SETTINGS):
        wrapped = option(wrapped)
    return wrapped


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--name``, ``--table`` and ``--config``, handed on as one ``settings``: which migration is meant."""
    return _TABLE(_NAME(_CONFIG(_collect(command))))


def name_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """As ``target_options``, for commands whose ``--table`` is the typed name that confirms."""
    return _NAME(_CONFIG(_collect(command)))


def settings_of(flags: Mapping[str, object], config: Path | None = None, text: str | None = None) -> Settings:
    """The settings; the keys that they name are no longer shown or logged from now on.

    ``text``, where given, stands for what the settings file says.
    """
    settings = load_settings(flags, config=config, text=text)
    remember(*secrets_of(settings.environ, settings.secret_variables))
    return settings


def _collect(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(*args: Any, config: Path | None = None, **values: Any) -> Any:
        flags = {_PATHS.get(name, name): values.pop(name) for name in list(values) if name in _FLAGS}
        for name in ("key", "content", "content_via"):
            flags[name] = tuple(part for each in flags.get(name) or () for part in at_commas(each))
        # `init` writes the file that it names; everywhere else it has to be there
        missing = config is not None and not config.is_file() and command.__name__ == "init"
        settings = settings_of(flags, config=config, text="" if missing else None)
        for folder in beside(config):
            if folder.resolve() != Path.cwd():
                note(f"Read {plain(folder / '.env')} beside {plain(config)}.")
        if command.__name__ == "init":
            values["config"] = config
        return command(*args, settings=settings, **values)

    return run


# ------------------------------------------------------------------------------------------------------- engine


@contextmanager
def engine_for(settings: Settings, on_event: EventSink | None = None) -> Iterator[Engine]:
    """The engine of the migration that the settings mean; closed at the end."""
    engine = open_engine(settings, on_event)
    try:
        yield engine
    finally:
        engine.close()


def open_engine(
    settings: Settings, on_event: EventSink | None = None, *, apart: bool = False, readonly: bool = False
) -> Engine:
    """Find out which migration is meant, and make its engine.

    ``apart``: its work is done in a process of its own, which goes on when the terminal dies, and who looks by it tells
    the audit log of workers that are gone, unless ``readonly``.

    Raises the settings' and the database's errors.
    """
    from embedtui.engine import Engine

    name = meant_migration(settings)
    if apart:
        from embedtui.engine import SubprocessEngine

        return SubprocessEngine(settings.dsn, name, settings, on_event, outlives=True, notes_lost=not readonly)
    return Engine(settings.dsn, name, settings, on_event)


# ----------------------------------------------------------------------------------------- confirming, stopping


def interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm_table(migration: Migration, typed: str | None, *, act: str) -> str:
    """The typed name of the table, asked for where it was not given and somebody is there.

    Raises Refused: it is not the table's name.
    """
    wanted = {migration.table.name, str(migration.table), shown(migration.table)}
    if typed is None:
        if not interactive():
            raise Refused(
                f"{act} changes {plain(migration.table)} for good.",
                hint=f"Type its name to confirm: --table {plain(shown(migration.table))}",
            )
        typed = click.prompt(
            f"{act} of {plain(migration.table)}. Type the table's name to go on",
            default="",
            show_default=False,
            err=True,
        )
    if typed not in wanted:
        raise Refused(f"{plain(typed) or 'Nothing'} is not the table's name; nothing was done.")
    return migration.table.name


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set; a second signal ends the process at once."""
    stop = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {
        each: signal.signal(each, handle)
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(each) is not signal.SIG_IGN  # nohup means it
    }
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
