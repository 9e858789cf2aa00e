"""What an operator wants to be left by a cleanup, and what that means for the names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from embedtui.engine.cutover.strategies import cutover_settings
from embedtui.engine.table_changes import was_not_null
from embedtui.errors import Refused, SettingsError
from embedtui.model import Migration, PlacementKind, TableName
from embedtui.postgres.catalog.facts import TableFacts
from embedtui.postgres.names import parse_name
from embedtui.postgres.state.ending import Ending

_FILE_SUFFIXES = (".copy", ".gz", ".tsv", ".txt")


@dataclass(frozen=True, slots=True)
class CleanupChoice:
    """What the operator wants to be left."""

    rename: bool | None = None
    """The new column and its index take the old one's names; None: unless somebody follows the new one's. A side table
    that is not folded keeps its own."""
    fold: bool | None = None
    """Placement ``table``: the side table's vectors become a column of the table, and it goes; None: where no Router
    was ever heard from, and nobody names the side table."""
    keep_old: bool = False
    """Leave the old column and its index where they are; only embedtui's own traces go."""
    keep_provenance: bool = False
    """Placement ``column``: keep (and rename) the columns with model and fingerprint. A side table keeps them."""
    archive: TableName | Path | None = None
    """Where the old vectors go first: a table, or a file in COPY's text form (compressed where it ends in ``.gz``)."""

    @property
    def archive_record(self) -> dict[str, object] | None:
        """``archive`` as it is stored; a file by its whole path."""
        if isinstance(self.archive, TableName):
            return {"table": [self.archive.schema, self.archive.name]}
        return None if self.archive is None else {"file": str(self.archive.absolute())}


class Kept(TypedDict, total=False):
    """A :class:`CleanupChoice` as keyword arguments."""

    rename: bool | None
    """The new column and its index take the old one's names; None (the default): unless its own is followed."""
    fold: bool | None
    """The side table's vectors become a column of the table; None (the default): where no Router follows them."""
    archive: str | None
    """A table or file that keeps the old vectors, as typed."""
    keep_old: bool
    """Leave the old column and its index; only embedtui's own traces go."""
    keep_provenance: bool
    """Leave the columns that say of each new vector its model and the content's fingerprint."""


def choice_of(kept: Kept) -> CleanupChoice:
    """The choice that ``kept`` spells.

    Raises SettingsError: the archive is neither a table nor a file.
    """
    archive = kept.get("archive")
    return CleanupChoice(
        rename=kept.get("rename"),
        fold=kept.get("fold"),
        keep_old=kept.get("keep_old", False),
        keep_provenance=kept.get("keep_provenance", False),
        archive=None if archive is None else archive_target(archive),
    )


@dataclass(frozen=True, slots=True)
class CleanupStep:
    """One step and the exact SQL it runs."""

    name: str
    """``begin``, ``archive``, ``fold``, ``index``, ``exchange``, ``settle``, ``contract``, ``not null``, ``finish``;
    of an abort ``begin``, ``remove``, ``finish``."""
    detail: str
    statements: tuple[str, ...] = ()


def archive_target(text: str) -> TableName | Path:
    """What an operator's word for the archive means: a file where it looks like a path, else a table.

    Raises SettingsError where it is neither.
    """
    path = Path(text)
    if path.name != text or path.suffix in _FILE_SUFFIXES:
        return path.expanduser()
    parts = [name if was_quoted else name.lower() for name, was_quoted in parse_name(text)]
    if len(parts) not in (1, 2):
        raise SettingsError(f"{text!r} is neither a table nor a file.", hint="Example: old_vectors, or ./old.copy.gz")
    return TableName(*parts) if len(parts) == 2 else TableName("public", parts[0])


def stored_choice(record: dict[str, Any]) -> CleanupChoice:
    """The choice as it was stored when the cleanup began."""
    stored = record["archive"] or {}
    archive: TableName | Path | None = None
    if "table" in stored:
        archive = TableName(*stored["table"])
    elif "file" in stored:
        archive = Path(stored["file"])
    return CleanupChoice(
        record["rename"], record.get("fold", False), record["keep_old"], record["keep_provenance"], archive
    )


def confirmed_choice(state: Ending, asked: CleanupChoice) -> CleanupChoice:
    """What was chosen when the cleanup began; a file on this machine is written only where this operator names it."""
    choice = stored_choice(state.record)
    path = choice.archive
    if isinstance(path, Path) and not state.has("archived"):
        named = asked.archive.absolute() if isinstance(asked.archive, Path) else None
        if named != path:
            raise Refused(
                f"The cleanup that was begun archives the old vectors to the file {path}, says the database.",
                hint=f"If that is right, name it: --archive {path}",
            )
    return choice


def exchanged(migration: Migration) -> bool:
    """The cutover by strategy ``rename`` gave the new column the old one's name already."""
    return cutover_settings(migration).strategy == "rename"


def named_as_before(migration: Migration, choice: CleanupChoice) -> bool:
    """The column that is left has the name that the application has always known."""
    in_column = choice.fold or migration.placement is PlacementKind.COLUMN
    return bool(choice.rename and not choice.keep_old and in_column)


def renames(migration: Migration, choice: CleanupChoice) -> bool:
    """Whether names are changed: not where the cutover exchanged them already."""
    return named_as_before(migration, choice) and not exchanged(migration)


def final_column(migration: Migration) -> str:
    """Name of the column that is left, where it is named as before."""
    return migration.new_column if exchanged(migration) else migration.old_column


def restores_not_null(migration: Migration, choice: CleanupChoice, facts: TableFacts) -> bool:
    """Whether the column that is left has to be NOT NULL again, as the old one was."""
    old = facts.column(migration.old_column)
    return named_as_before(migration, choice) and old is not None and (old.not_null or was_not_null(migration))
