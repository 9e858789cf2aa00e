"""What the engine asks of a placement, and the rows that pass between them: one pipeline, two placements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from psycopg import sql

from embedtui.arrays import np, npt
from embedtui.model import Key, Migration, Side, TableName, VerifyReport
from embedtui.postgres.connect import Connection

Vectors: TypeAlias = "npt.NDArray[np.float32]"


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row to embed, as read."""

    key: Key
    block: int
    """Heap page it was read from; 0 where read by key."""
    source: int
    """Fingerprint of the content that ``text`` was made of."""
    text: str
    """Cut where it is longer than any text the model could take: then ``characters`` exceeds ``len(text)``."""
    characters: int
    old_digest: str = ""
    """Of the old vector as read, empty where there was none: only that vector is replaced. Known where read by key."""
    new_digest: str = ""


@dataclass(frozen=True, slots=True)
class QueuedRow:
    """A row that change capture named, with what each side still needs."""

    row: SourceRow
    blank: bool
    """Nothing to embed."""
    new_fresh: bool
    """Its new vector is that of its content and of the right model."""
    new_stamped: bool
    """It says what content its new vector was made of."""
    forgotten: bool
    """An operator had its new vector's provenance taken off, to have it replaced."""
    asked: Key
    """The key that it was asked for by: another text of the same value, where the two differ."""
    text_waits: bool
    """Its text, in another table, is queued as changed, and its rows are not yet: what is known of it is not all."""

    @property
    def new_present(self) -> bool:
        """Whether it has a new vector."""
        return bool(self.row.new_digest)

    @property
    def old_present(self) -> bool:
        """Whether it has an old vector."""
        return bool(self.row.old_digest)


@dataclass(frozen=True, slots=True)
class Written:
    """What one write transaction did."""

    rows: int
    updates: int = 0
    hot_updates: int = 0


class Placement(Protocol):
    """What the engine asks of a placement; all SQL of it lives here."""

    migration: Migration

    def prepare_sql(self) -> tuple[sql.Composed, ...]:
        """DDL that makes the new side."""
        ...

    def read_shard(
        self, conn: Connection, leaf: TableName, first: int, last: int, filenode: int | None = None
    ) -> list[SourceRow]:
        """Rows of blocks first..last (inclusive) that have no new vector, something to embed, and no open fault.

        None where the leaf's storage is no longer ``filenode`` (if given): these blocks hold other rows now.
        """
        ...

    def last_block_within(self, conn: Connection, leaf: TableName, first: int, last: int, most: int) -> int:
        """The last of blocks first..last up to which their rows' texts to embed have ``most`` bytes; at least first."""
        ...

    def write(self, conn: Connection, leaf: TableName, rows: Sequence[SourceRow], vectors: Vectors) -> Written:
        """Store vectors of rows read by ``read_shard``, guarded; runs inside the caller's transaction."""
        ...

    def read_keys(self, conn: Connection, keys: Sequence[Key]) -> list[QueuedRow]:
        """The rows with these keys, as far as they exist; found by value, and once for each text that was asked.

        Raises psycopg.DataError where one is none of the key's types.
        """
        ...

    def locked(self, conn: Connection, keys: Sequence[Key]) -> dict[Key, str]:
        """Those of these rows that cannot be locked now, each with the id of the transaction that may have it.

        Where more than one has it, that is the id of none, and empty where this role may not read it; locks what is
        free for a moment.
        """
        ...

    def count_current_queued(self, conn: Connection, limit: int) -> int:
        """Those of ``limit`` entries of the queue whose row has a new vector of its present content, or needs none.

        Raises psycopg.DataError where a key is none of the key's types.
        """
        ...

    def replace(
        self,
        conn: Connection,
        rows: Sequence[SourceRow],
        vectors: Vectors,
        side: Side,
        undone: set[Key] | None = None,
    ) -> set[Key]:
        """Store or replace vectors of rows read by ``read_keys``; the keys that could be.

        Left out: the row was locked, or its content or this very vector is no longer what was read; or a trigger of
        the table took the write back without an error, and its key is added to ``undone``.
        """
        ...

    def adopt(self, conn: Connection, rows: Sequence[SourceRow]) -> set[Key]:
        """Take the stamps off new vectors that the application wrote: they are unverified. The keys that need no more.

        Left out: the row was locked, or has another vector than ``read_keys`` read.
        """
        ...

    def sweep(self, conn: Connection, limit: int) -> list[Key]:
        """Keys of rows whose new vector is missing, stale or of another model, and that nothing else takes care of yet.

        Faulty rows and queued ones are left out: an application that edits all the time cannot keep it from ending.
        """
        ...

    def count(self, conn: Connection) -> VerifyReport:
        """Full scan."""
        ...

    def count_present(self, conn: Connection) -> VerifyReport:
        """Full scan of rows whose stamps are gone: only whether there is a vector."""
        ...

    def forget_source(self, conn: Connection, keys: Sequence[Key]) -> None:
        """Take the provenance off these rows' new vectors, so that sync replaces them; the vectors stay searchable."""
        ...

    def forget_gone(self, conn: Connection) -> None:
        """Remove faults and stale marks of rows that are no longer there, and faults of texts that are not."""
        ...

    def sample(self, conn: Connection, size: int) -> list[tuple[SourceRow, list[float]]]:
        """Random rows that have content and a new vector, with that vector (full scan)."""
        ...
