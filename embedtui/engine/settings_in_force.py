"""The settings in force, where each came from, and changing one in the file while the work goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from embedtui.config import BY_PATH, SPECS, ModelSettings, Settings, edited, file_text, from_typed, replace_file, typed
from embedtui.engine import steering
from embedtui.engine.access import Access
from embedtui.engine.local_settings import as_set_here, require_said
from embedtui.engine.plan.draft import resolve
from embedtui.engine.plan.existing import migration_name, stored_values
from embedtui.engine.plan.start import require_same
from embedtui.errors import DatabaseError, EmbedtuiError, Refused, SettingsError
from embedtui.formatting import counted
from embedtui.model import Migration, SettingLine, SettingsInForce
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.migrations import load_migration
from embedtui.postgres.state.pace import read_knobs
from embedtui.redaction import redact

_OF_A_MODEL = ("name", "dimensions", "pad_to", "normalise", "provider", "document_prefix")
IDENTITY = frozenset(
    {"name", "table", "schema", "key", "content", "content_sql", "content_from", "content_via", "scope", "old_column"}
    | {"new_column", "new_table", "placement", "distance", "halfvec", "index.method", "foreign_key", "accept"}
    | {f"{side}_model.{name}" for side in ("old", "new") for name in _OF_A_MODEL}
)
"""What is migrated, and what is decided when it begins: another value would make another migration."""
_BY_COMMAND = {"view": "embedtui view", "view_schema": "embedtui view"}
"""Made or taken away by a command, once the migration has begun."""
AT_START = frozenset({"database_variable", "notify"})
"""Read once by each process."""


def settings_in_force(at: Access) -> SettingsInForce:
    """All settings as this machine's and the database's make them; what is out of reach is said to be."""
    settings, problem = at.settings or Settings(), ""
    live: Migration | None = None
    stored: dict[str, object] = {}
    try:
        live = at.migration()
        if live is not None and not live.phase.ended:
            stored = _stored(at, live)
        else:
            live = None
    except DatabaseError as error:
        problem = f"What the database has stored is not shown: {error.message}"
    fresh = settings
    if settings.again is not None:
        try:
            fresh = settings.again(at.environ)
        except EmbedtuiError as error:
            problem = f"The file is wrong by now, so what it said before is in force: {error.message}"
    lines = tuple(_lines(settings, fresh, live, stored))
    file = str(settings.file) if settings.again is not None and settings.file is not None else ""
    return SettingsInForce(lines, file, _fingerprint(settings), problem)


def change_setting(at: Access, path: str, given: str, seen: str) -> str:
    """Have the file say something else of one setting, and all who work here read it; what was done, in a sentence.

    Args:
        at: the migration.
        path: the setting's name in the file.
        given: its value as it is typed; empty takes it out of the file.
        seen: what :func:`settings_in_force` gave; the file has to be as it was.

    Raises:
        Refused: it cannot be changed here or now, or the file was changed meanwhile; nothing is written.
        SettingsError: the value is wrong, or the file cannot be written.
        DatabaseLost: it is out of reach; nothing is written.
    """
    if path not in BY_PATH:
        raise Refused(f"There is no setting {path}.")
    settings, live = at.settings, at.migration()
    live = None if live is None or live.phase.ended else live
    if settings is None or settings.again is None or settings.file is None:
        raise Refused("These settings come from no file.", hint="Begin with `embedtui init`.")
    why = _fixed(path, settings, live)
    if why:
        raise Refused(f"{path}: {why}")
    if _fingerprint(settings) != seen:
        raise Refused(f"{settings.file} was changed by somebody else meanwhile.", hint="Look at it again, then change.")
    text = file_text(settings.file)
    new = edited(text or "", {path: from_typed(path, given) if given.strip() else None})
    found = settings.again(at.environ, new)
    if live is not None:
        at.write(lambda conn: _require_same(conn, at, found))
    elif path in IDENTITY:
        at.write(lambda conn: _require_possible(conn, settings, found))
    replace_file(settings.file, new, seen=text)
    said = f"{path} = {redact(typed(found.value(path))) or 'unset'}, in {settings.file.name}"
    if path in AT_START:
        return f"{said}: from the next start on."
    return f"{said}: {_taken_up(at, path, found, live)}"


def _taken_up(at: Access, path: str, found: Settings, live: Migration | None) -> str:
    """Have it read by all; who does."""
    if live is None:
        at.reread()
        at.name = at.write(lambda conn: migration_name(conn, found))  # of another table, or another name
        return "in force here."
    try:
        asked = steering.reload(at)
        if path.startswith("pacing."):  # operators may have set it otherwise since
            steering.set_pace(at, {path.removeprefix("pacing."): found.value(path) or 0})
    except DatabaseError as error:
        raise DatabaseError(
            f"It is written, but the workers could not be told: {error.message}", hint="Reload once it is back."
        ) from error
    return f"{counted(asked, 'worker reads', 'workers read')} it now." if asked else "in force here."


def _require_same(conn: Connection, at: Access, found: Settings) -> None:
    """The settings would still describe the migration under way."""
    stored = load_migration(conn, at.name)
    if stored is None:
        return
    if found.table is not None:
        require_same(conn, stored, found)
    require_said(as_set_here(stored, found, found.environ), "new_model.")


def _require_possible(conn: Connection, before: Settings, found: Settings) -> None:
    """A migration could still begin by the settings, unless it could not before either."""
    try:
        resolve(conn, found)
    except EmbedtuiError:
        try:
            resolve(conn, before)
        except EmbedtuiError:  # one thing after the other
            return
        raise


def _fingerprint(settings: Settings) -> str:
    try:
        text = file_text(settings.file) if settings.file is not None else None
    except SettingsError:
        return "unreadable"
    return "none" if text is None else hashlib.sha256(text.encode()).hexdigest()


def _stored(at: Access, live: Migration) -> dict[str, object]:
    """What the migration says, and the limits that operators have set since."""
    knobs = at.read(lambda conn: read_knobs(conn, live.id))
    own = {f"pacing.{each.name}": getattr(knobs, each.name) for each in fields(knobs)} if knobs is not None else {}
    return {**stored_values(live), **own}


def _lines(
    settings: Settings, fresh: Settings, live: Migration | None, stored: Mapping[str, object]
) -> Iterator[SettingLine]:
    usual = _usual(live) if live is not None else {}
    for spec in SPECS:
        path, own = spec.path, settings.value(spec.path)
        value = stored.get(path, own)
        origin = settings.origin(path)
        if typed(value) != typed(own):  # the migration's own, what operators set, or what is known of a model
            known = usual.get(path, _DEFAULTS.value(path))
            origin = "default" if typed(value) == typed(known) else "database"
        text, written = typed(value), typed(fresh.value(path))
        yield SettingLine(
            path=path,
            value=redact(text),
            origin=origin,
            comment=spec.comment,
            fixed=_fixed(path, settings, live) or _untypable(text),
            later=path in AT_START,
            written=redact(written) if written not in (typed(own), text) else None,
        )


def _usual(live: Migration) -> dict[str, Any]:
    """What a model has by what is known of it, where nobody says anything."""
    found: dict[str, Any] = {}
    for side, model in (("old", live.old_model), ("new", live.new_model)):
        plain = ModelSettings(name=model.name, dimensions=model.shape.given, provider=model.provider)
        try:
            known = plain.complete(side, dimensions=model.dimensions)
        except SettingsError:
            continue
        found |= {f"{side}_model.{each.name}": getattr(known, each.name, None) for each in fields(ModelSettings)}
    return found


def _fixed(path: str, settings: Settings, live: Migration | None) -> str:
    """Why a setting cannot be changed in the file now; empty where it can."""
    origin = settings.origin(path)
    if settings.again is None or settings.file is None:
        return "these settings come from no file."
    if origin not in ("default", settings.file.name):
        return f"{origin} says it, and comes before the file: change it there."
    if live is not None and path in IDENTITY:
        return "it is part of what is migrated: fixed since that began, until it ends or is aborted."
    if live is not None and path in _BY_COMMAND:
        return f"the migration has begun: `{_BY_COMMAND[path]}` makes the routed view, or takes it away."
    return ""


def _untypable(text: str) -> str:
    """Why a value cannot be changed in one field: what is not shown there would be lost."""
    if redact(text) != text:
        return "it has a part that is not shown: change it in the file."
    return "it has several lines: change it in the file." if "\n" in text else ""


_DEFAULTS = Settings()
