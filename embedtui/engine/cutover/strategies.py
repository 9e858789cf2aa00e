"""How services that use no Router learn of a flip: a settings file, a command, or exchanged column names."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from psycopg import sql

from embedtui.config import FLAG_VARIABLE, CutoverSettings
from embedtui.engine.local_settings import require_said
from embedtui.errors import EmbedtuiError, Refused, SettingsError
from embedtui.model import Blocker, Migration, PlacementKind, Side
from embedtui.postgres.catalog.inspect import inspect_oid
from embedtui.postgres.connect import Connection
from embedtui.postgres.indexes import pairs_of
from embedtui.postgres.names import relation, shown_column
from embedtui.postgres.sides import capture, routed_view
from embedtui.postgres.sides.layout import new_side, vectors_at
from embedtui.postgres.state.pointer import follow_pointer_sql, move_in_ddl
from embedtui.redaction import redact

LIMITS: Mapping[str, str] = {
    "pointer": "",
    "env_file": (
        "Not instant: a service follows when it next reads the file. Until then it embeds and searches with the old"
        " settings, and services that read it at different times serve different models."
    ),
    "hook": (
        "As instant as the command: while it runs, some services may serve the old model and some the new one. Its"
        " failure undoes the flip here, but not what it had done already."
    ),
    "search_path": (
        "Not instant: a session follows when it is opened anew (a pooler's with its server connections), and the"
        " application's model has to be switched in the same moment; at equal dimensions nothing notices a mix."
    ),
    "rename": (
        "Not zero-downtime: readers wait for the lock, and a query vector of the old model that arrives after the"
        " exchange searches new vectors; at equal dimensions nothing notices."
    ),
}
"""What each strategy cannot promise, for the screen and the command line; empty where the invariants hold."""

_OUTPUT_SHOWN = 2000
_TERMINATE_SECONDS = 5.0

_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+,-]+")


class HookFailed(EmbedtuiError):
    """The hook failed or took too long."""

    title = "Hook failed"


@dataclass(frozen=True, slots=True)
class Kept:
    """A file as it was, to be put back."""

    path: Path
    content: bytes | None
    """None: there was no such file."""


def service_settings(migration: Migration, side: Side) -> dict[str, str]:
    """What a service has to know of the side that serves: flag, model and dimensions, table and column, together.

    With strategy ``rename`` table and column keep their names, and are not told.
    """
    model = migration.new_model if side is Side.NEW else migration.old_model
    told = {
        FLAG_VARIABLE: "true" if side is Side.NEW else "false",
        "EMBED_MODEL": model.name,
        "EMBED_DIMENSIONS": str(model.shape.given),
    }
    if cutover_settings(migration).strategy == "rename":
        return told
    table, column = vectors_at(migration, side)
    return told | {"EMBED_TABLE": relation(table).as_string(None), "EMBED_COLUMN": shown_column(column)}


def cutover_settings(migration: Migration) -> CutoverSettings:
    """How this migration is switched from here; of a migration as loaded, without command and file."""
    return migration.stored.cutover


def unsaid_blockers(migration: Migration) -> tuple[Blocker, ...]:
    """What a flip would do on this machine by the database's word alone."""
    try:
        require_said(migration, "cutover.")
    except Refused as refused:
        return (Blocker("local settings", refused.message, refused.hint),)
    return ()


def settings_blockers(settings: CutoverSettings, percent: int) -> tuple[Blocker, ...]:
    """What the strategy lacks, or cannot do."""
    found = []
    if settings.strategy == "env_file" and not settings.env_file:
        found.append(Blocker("strategy", "Strategy env_file has no file.", "Set cutover.env_file."))
    if settings.strategy == "hook" and not settings.hook:
        found.append(Blocker("strategy", "Strategy hook has no command.", "Set cutover.hook."))
    if settings.strategy == "search_path" and not settings.roles:
        found.append(Blocker("strategy", "Strategy search_path has no roles.", "Set cutover.roles."))
    if settings.strategy != "pointer" and 0 < percent < 100:
        found.append(
            Blocker("strategy", f"Strategy {settings.strategy} knows no canary.", "Cut over to 100 %, or use pointer.")
        )
    return tuple(found)


def tell_services(migration: Migration, side: Side, settings: CutoverSettings, act: str) -> None:
    """Carry out what the strategy does outside the database: write the file, then run the hook, as far as set.

    A hook that fails at a cutover leaves the file as it was before; at a rollback the file stays rolled back.

    Raises:
        SettingsError: the file cannot be written.
        HookFailed: the hook failed; its output is in the message.
    """
    if settings.strategy == "pointer":
        return
    values = service_settings(migration, side)
    kept = None
    if settings.env_file and settings.strategy != "rename":
        kept = write_env_file(Path(settings.env_file), values)
    if settings.hook:
        try:
            run_hook(
                settings.hook,
                values | {"EMBEDTUI_ACT": act, "EMBEDTUI_ROUTE": migration.name, "EMBEDTUI_SIDE": side.value},
                settings.hook_timeout_seconds,
                settings.hook_variables,
            )
        except BaseException:
            if kept is not None and side is Side.NEW:
                restore(kept)
            raise


def write_env_file(path: Path, values: Mapping[str, str]) -> Kept:
    """Set ``values`` in a ``.env`` file in one atomic replacement; all other lines, mode and owner stay.

    Raises:
        SettingsError: the file cannot be read or written.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    try:
        before = path.read_bytes() if path.exists() else None
        _replace(path, env_text((before or b"").decode(), values).encode())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"Cannot write {path}: {error}.", hint="Check cutover.env_file and its rights.") from None
    return Kept(path, before)


def restore(kept: Kept) -> None:
    """Put a file back as it was."""
    if kept.content is None:
        kept.path.unlink(missing_ok=True)
    else:
        _replace(kept.path, kept.content)


def env_text(text: str, values: Mapping[str, str]) -> str:
    """``text`` of a ``.env`` file with ``values`` set: replaced where the last such line stands, else added."""
    lines = text.splitlines(keepends=True)
    missing = dict(values)
    for position in range(len(lines) - 1, -1, -1):
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=", lines[position])
        if match and match[1] in missing:
            end = lines[position][len(lines[position].rstrip("\r\n")) :]
            lines[position] = f"{match[0]}{_quoted(missing.pop(match[1]))}{end}"
    if missing and lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join(lines) + "".join(f"{name}={_quoted(value)}\n" for name, value in missing.items())


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _replace(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, name)
            with contextlib.suppress(OSError, AttributeError):  # only root may give a file away
                status = path.stat()
                os.chown(name, status.st_uid, status.st_gid)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


HOOK_ENVIRONMENT = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK",
)  # fmt: skip
"""Of the environment, what a hook gets unasked, with LC_*: enough to find programs and speak the operator's language,
and no connection string or key. ``cutover.hook_variables`` names what else it needs."""


def hook_environment(wanted: Collection[str] = ()) -> dict[str, str]:
    """The part of this process's environment that a hook gets."""
    names = {*HOOK_ENVIRONMENT, *wanted}
    return {name: value for name, value in os.environ.items() if name in names or name.startswith("LC_")}


def run_hook(command: str, values: Mapping[str, str], timeout: float, variables: Collection[str] = ()) -> str:
    """Run ``command`` (no shell) with ``values`` and little else in its environment; its output, stderr included.

    ``variables`` names what it gets beside :data:`HOOK_ENVIRONMENT`.

    Raises:
        HookFailed: it cannot be started, ends with another status than 0, or takes longer than ``timeout`` seconds
            (it and its children are then ended).
    """
    try:
        process = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**hook_environment(variables), **values},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise HookFailed(f"The hook cannot be started: {error}.", hint="Check cutover.hook.") from None
    with process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            output = _end(process)
            raise HookFailed(
                f"The hook did not end within {timeout:g} s and was stopped. {_shown(output)}".strip(),
                hint="Mend it, or raise cutover.hook_timeout_seconds.",
            ) from None
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        raise HookFailed(
            f"The hook ended with status {process.returncode}. {_shown(output)}".strip(), hint="Mend it and try again."
        )
    return _shown(output)


def _end(process: subprocess.Popen[bytes]) -> bytes:
    output = b""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            output, _ = process.communicate(timeout=_TERMINATE_SECONDS)
            break
        except subprocess.TimeoutExpired as error:
            output = error.output or b""
    return output


def _shown(output: bytes) -> str:
    text = redact(output.decode(errors="replace")).strip()
    return text if len(text) <= _OUTPUT_SHOWN else f"…{text[-_OUTPUT_SHOWN:]}"


# ------------------------------------------------------------------------------------------------------- rename


def rename_blockers(conn: Connection, migration: Migration, settings: CutoverSettings) -> tuple[Blocker, ...]:
    """Why column names cannot be exchanged now; what depends on a column keeps it under its old identity."""
    found = []
    if migration.placement is not PlacementKind.COLUMN:
        return (
            Blocker(
                "rename_placement",
                "Names can only be exchanged between columns of one table; this migration has a side table.",
                "Use another strategy, or begin again with placement column.",
            ),
        )
    if migration.scope is not None:
        return (
            Blocker(
                "rename_scope",
                f"Rows outside the scope are searched by the name {migration.old_column}, which would be exchanged.",
                "Use another strategy.",
            ),
        )
    facts = inspect_oid(conn, migration.table_oid)
    side = new_side(migration)
    view = routed_view.find(conn, migration)  # it shows the new vectors, whatever they are called
    for column in (migration.old_column, side.embedding):
        found += [
            Blocker(
                "rename_dependents",
                f"The {dependent.kind} {dependent.name} would go on meaning today's {column}.",
                "Drop it and create it again after the exchange.",
            )
            for dependent in facts.dependents_on(column)
            if dependent.kind != "statistics" and (view is None or dependent.name != view.regclass)
        ]
    found += [
        Blocker(
            "rename_names", f"The table has a column {name} already.", "Rename that column, or use another strategy."
        )
        for _, name in _provenance(migration)
        if facts.column(name) is not None
    ]
    if migration.old_model.dimensions == migration.new_model.dimensions and not settings.hook:
        found.append(
            Blocker(
                "rename_equal_dimensions",
                "Both models have the same dimensions: a service that is not told searches wrong vectors unnoticed.",
                "Stop the services and give a reason, or set cutover.hook to switch them.",
                overridable=True,
            )
        )
    return tuple(found)


def _provenance(migration: Migration) -> tuple[tuple[str, str], ...]:
    """The new side's provenance columns, and their names once the columns are exchanged."""
    side, old = new_side(migration), migration.old_column
    return (side.model, f"{old}_model"), (side.source, f"{old}_source")


def rename_sql(
    conn: Connection, migration: Migration, active: Side, *, epoch: int, changed_by: str
) -> tuple[sql.Composed, ...]:
    """One transaction's statements: exchange the names of both columns and of their indexes, move pointer and phase.

    The old column's name afterwards means ``active``'s vectors; a rollback exchanges them back. A pointer that cannot
    move, or whose epoch is no longer ``epoch``, fails the transaction (see ``move_in_ddl``). Change capture goes by the
    new names at once; workers meet a name that is gone and read the migration again.
    """
    side = new_side(migration)
    table = sql.Identifier(migration.table.schema, migration.table.name)
    spare = "embedtui_exchange"

    def column(old: str, new: str) -> sql.Composed:
        return sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(table, sql.Identifier(old), sql.Identifier(new))

    def index(schema: str, old: str, new: str) -> sql.Composed:
        return sql.SQL("ALTER INDEX {} RENAME TO {}").format(sql.Identifier(schema, old), sql.Identifier(new))

    statements = [
        column(migration.old_column, spare),
        column(side.embedding, migration.old_column),
        column(spare, side.embedding),
        *(column(old, new) for old, new in _provenance(migration)),
    ]
    for new, old in pairs_of(conn, migration):
        names = ((old.name, spare), (new.name, old.name), (spare, new.name))
        statements += [index(old.schema, before, after) for before, after in names]
    exchanged = replace(migration, old_column=side.embedding, new_column=migration.old_column)
    statements += [
        # the pointer last but for its migration: nobody who moves it may wait for the locks above
        *move_in_ddl(migration.name, expect_epoch=epoch, active=active, by=changed_by),
        sql.SQL("UPDATE embedtui.migration SET old_column = {}, new_column = {} WHERE id = {}").format(
            sql.Literal(side.embedding), sql.Literal(migration.old_column), sql.Literal(migration.id)
        ),
        follow_pointer_sql(migration.id),
        # after the migration's row: a worker that makes them by the names it knows holds that one first
        *capture.renamed_sql(conn, exchanged),
    ]
    return tuple(statements)
