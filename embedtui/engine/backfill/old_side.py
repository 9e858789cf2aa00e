"""What the old side's vectors are made by: the old model, and the bridge that is in force while that gives none."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg.errors import LockNotAvailable

from embedtui.arrays import np
from embedtui.chance import chance
from embedtui.engine.backfill.embedding import RowEmbedder
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.old_writes import Halved, Unwritable, by_halves, refusing
from embedtui.engine.backfill.upkeep import Database
from embedtui.engine.bridge.stand_in import StandIn, stand_in
from embedtui.model import Key, Side
from embedtui.postgres.connect import Connection, retryable
from embedtui.postgres.sides import capture
from embedtui.postgres.sides.attempt import write_sample
from embedtui.postgres.sides.batch import vector_digests
from embedtui.postgres.sides.new_vectors import new_vectors
from embedtui.postgres.sides.own_writes import look
from embedtui.postgres.sides.protocol import SourceRow
from embedtui.postgres.state.audit import OLD_BACK, OLD_LOST, add_audit, old_model_lost, tell_refused, why_old_dead
from embedtui.postgres.state.bridges import load_map, load_status
from embedtui.postgres.state.pointer import bridge_in_force, reads_ever_moved
from embedtui.postgres.state.shards import page_ranges
from embedtui.postgres.state.stale import Mark, add_bridged, add_stale, mark_missing, marked_to_embed, marked_to_map

RETRY_SECONDS = (2.0, 60.0)
"""An old model that does not answer is asked again after the first, doubling up to the second."""
ROUND_SHARE, ROUND_SECONDS = 20.0, 300.0
"""Between two rounds over rows that the bridge gave nothing yet passes so many times what one took, at most this."""
PROBES = 4
"""Rows by which it is tried whether the database accepts old vectors again: they are paid for."""
SCAN_BLOCKS = 2_048
"""Pages of one look for rows without an old vector: a short transaction each."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row that needs an old vector, with what was noted of the one it has."""

    row: SourceRow
    mark: Mark | None = None
    """None: it is not of the row's content, whoever made it."""

    @property
    def made_by(self) -> int | None:
        """Version of the map that made the vector that the row has, of its present content."""
        return self.mark.bridge if self.mark and self.mark.digest == self.row.old_digest else None


class OldSide:
    """Gives the old side its vectors: the old model's while it answers, else the bridge's.

    Used by the sync's thread alone.
    """

    def __init__(self, job: Job, model: RowEmbedder | None, database: Database) -> None:
        """``model``: None where it is known to be dead."""
        self._job, self._model, self._database = job, model, database
        self._retry_at, self._retry_wait = 0.0, RETRY_SECONDS[0]
        self._lost = ""
        """Why the old model does not answer at present."""
        self._refused: str | None = None
        """Why the database accepts no old vectors at present; None: an earlier process may know."""
        self._failed: set[Key] = set()
        """Rows that it refused while it accepted none."""
        self._suspects: set[Key] = set()
        """Of these, those without which it accepted others since: refused again, it is for their own sake."""
        self._heard = False
        """It answered since; until then a loss may be known that an earlier process met."""
        self._missing_known = False
        """Rows without an old vector were looked for."""
        self._kept: tuple[int, StandIn] | None = None
        self._after: Key = ()
        """Key of the last row that was mapped anew in this round."""
        self._round_began = self._round_at = 0.0

    @property
    def model(self) -> RowEmbedder | None:
        """What embeds for it; None while that does not answer."""
        return self._model if time.monotonic() >= self._retry_at else None

    def lose(self, why: str) -> None:
        """The old model does not answer now; the new side must not wait for it."""
        self._retry_at = time.monotonic() + self._retry_wait
        self._retry_wait = min(self._retry_wait * 2, RETRY_SECONDS[1])
        if why != self._lost:
            self._lost, self._heard = why, False
            self._job.failed(f"The old side cannot be kept current: {why}")
            self._database(lambda conn: add_audit(conn, self._job.migration.id, OLD_LOST, why))

    def write(self, rows: Sequence[SourceRow], store: Callable[[slice], object]) -> dict[int, Unwritable]:
        """Have ``store`` write these rows' vectors; those that the database refuses for their own sake.

        Raises:
            Unwritable: it accepts none at present.
        """
        found = by_halves(len(rows), store)
        self._judge(rows, found)
        keys = {row.key for row in rows}
        if not found.accepted and not keys <= self._suspects:
            self._failed |= {rows[place].key for place in found.refused}
            assert found.last is not None
            raise found.last
        return found.refused

    def _judge(self, rows: Sequence[SourceRow], found: Halved) -> None:
        if found.accepted:
            self._suspects |= self._failed
            self._suspects -= {row.key for place, row in enumerate(rows) if place not in found.refused}
            self._failed = set()

    def refuse(self, why: str) -> None:
        """The database accepts no old vectors now; the new side must not wait for it."""
        self._retry_at = time.monotonic() + self._retry_wait
        self._retry_wait = min(self._retry_wait * 2, RETRY_SECONDS[1])
        if why != self._refused:
            self._refused = why
            if self._database(lambda conn: tell_refused(conn, self._job.migration.id, why)):
                self._job.failed(f"The old side ages: the database refuses old vectors: {why}")

    @property
    def probes(self) -> int | None:
        """Rows that may be embedded to try whether the database accepts them again; None: it does."""
        return PROBES if self._refused else None

    def try_out(self, conn: Connection) -> None:
        """Find out, before it matters, whether the database lets us write old vectors: by one row, rolled back."""
        migration = self._job.migration
        if reads_ever_moved(conn, migration.id) or capture.state(conn, migration).phase != "validate":
            return
        if look(conn, migration).reaching_out:
            return  # what such a trigger does is not rolled back
        why = ""
        try:
            with refusing(conn), conn.transaction(force_rollback=True):
                conn.execute("SET LOCAL statement_timeout = '3s'")
                if not write_sample(conn, self._job.placement):
                    return
                conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except LockNotAvailable:
            return  # nothing is known
        except Unwritable as refusal:
            if retryable(refusal.__cause__ or refusal):
                return
            why = str(refusal)
        tell_refused(conn, migration.id, why)

    def give_up(self) -> None:
        """It was not asked: where nobody can ask it here, that is said."""
        if self._model is None and not self._job.migration.old_model.unasked and not self._refused:
            self.lose("there is no name or no key to ask the old model by")

    def answers(self) -> None:
        """The old model does, and the database took its vectors."""
        self._accepts()
        self._retry_wait = RETRY_SECONDS[0]
        if self._heard:
            return

        def back(conn: Connection) -> bool:
            lost = old_model_lost(conn, self._job.migration.id) or bool(why_old_dead(conn, self._job.migration.id))
            if lost:
                add_audit(conn, self._job.migration.id, OLD_BACK)
            return lost

        lost, self._lost, self._heard = self._database(back), "", True
        if lost:
            self._job.note("The old model answers again: what it had no vectors for is brought up to date.")

    def _accepts(self) -> None:
        """The database took vectors, whoever made them."""
        if self._refused == "":
            return
        self._refused, self._retry_wait = "", RETRY_SECONDS[0]
        if self._database(lambda conn: tell_refused(conn, self._job.migration.id, "")):
            self._job.note("The database accepts old vectors again: the old side is brought up to date.")

    def ours(self, conn: Connection) -> bool:
        """Whether the old side is ours to keep: nobody else can, or reads were moved.

        Once reads were moved to the new side, if only a share of them, the application may have left old vectors
        behind; that stays so after a rollback, for what was written before it.
        """
        return bool(self._job.migration.old_model.unasked) or reads_ever_moved(conn, self._job.migration.id)

    def to_do(self, limit: int) -> tuple[list[Key], bool]:
        """Marked rows to look after now, and whether there may be more at once: for the model, else for the bridge."""
        if not self._missing_known and self._database(self.ours):
            self._database(self._look_for_missing)
            self._missing_known = not self._job.stop.is_set()
        if self.model is not None:
            keys = self._database(lambda conn: marked_to_embed(conn, self._job.migration.id, limit))
            if self._refused and len(keys) > PROBES:  # any of them: the oldest may be refused for their own sake
                keys = chance.sample(keys, PROBES)
            return keys, bool(keys) and not self._refused
        keys = self._database(lambda conn: self._to_map(conn, limit))
        return keys, len(keys) == limit

    def stand_in(self, conn: Connection, rows: Sequence[Wanted]) -> None:
        """Give these rows old vectors made of their new ones; those that get none are noted as stale, or missing.

        Part of the caller's transaction.
        """
        found = None if self._refused_now else self._in_force(conn)
        # where the bridge is off, what it made stays what it is
        made: dict[int, dict[Key, str]] = defaultdict(dict)
        wanted = []
        for each in rows:
            if each.made_by is not None and (found is None or each.made_by == found[0]):
                made[each.made_by][each.row.key] = each.row.old_digest
            else:
                wanted.append(each.row)
        if found is not None:
            version, by = found
            made[version].update(self._write(conn, by, wanted))
        for version, digests in made.items():
            add_bridged(conn, self._job.migration.id, version, digests)
        known = {key for digests in made.values() for key in digests}
        left = {each.row.key: not each.row.old_digest for each in rows if each.row.key not in known}
        add_stale(conn, self._job.migration.id, left)

    @property
    def _refused_now(self) -> bool:
        return bool(self._refused) and time.monotonic() < self._retry_at

    def _in_force(self, conn: Connection) -> tuple[int, StandIn] | None:
        """The bridge's version, and what makes vectors by it; a version never changes."""
        version = bridge_in_force(conn, self._job.migration.id)
        if version is None:
            self._kept = None
        elif self._kept is None or self._kept[0] != version:
            found = load_map(conn, version, self._job.migration.vector_schema)
            self._kept = None if found is None else (version, stand_in(found, load_status(conn, version)))
        return self._kept

    def _write(self, conn: Connection, by: StandIn, rows: Sequence[SourceRow]) -> dict[Key, str]:
        """The digests of what was written, by key: guarded, as everything sync writes."""
        if not rows:
            return {}
        half = self._job.migration.old_vector_type == "halfvec"
        known, vectors = new_vectors(conn, self._job.migration, rows)
        with np.errstate(over="ignore", invalid="ignore"):
            mapped = by(vectors).astype(np.float16 if half else np.float32)
        sound = np.isfinite(mapped).all(axis=1) & mapped.any(axis=1)
        known, mapped = [row for row, each in zip(known, sound, strict=True) if each], mapped[sound]
        if not known:
            return {}
        digests = dict(zip((row.key for row in known), vector_digests(mapped, half), strict=True))
        written: set[Key] = set()

        def store(part: slice) -> None:
            with refusing(conn), conn.transaction():
                done = self._job.placement.replace(conn, known[part], mapped[part], Side.OLD)
                conn.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what is deferred would fail the caller's transaction
            written.update(done)

        found = by_halves(len(known), store)
        if found.accepted:
            self._accepts()
        elif found.last is not None:
            self.refuse(str(found.last))
        return {key: digests[key] for key in written}

    def _to_map(self, conn: Connection, limit: int) -> list[Key]:
        """Marked rows whose old vector this map did not make, each once a round; fewer than the limit end the round."""
        before, found, moment = self._kept, self._in_force(conn), time.monotonic()
        if found is not before:
            self._after, self._round_at = (), moment
        if found is None or moment < self._round_at or self._refused_now:
            return []
        if not self._after:
            self._round_began = moment
        keys = marked_to_map(conn, self._job.migration.id, found[0], self._after, limit)
        self._after = keys[-1] if len(keys) == limit else ()
        if not self._after:
            self._round_at = moment + min(ROUND_SHARE * (moment - self._round_began), ROUND_SECONDS)
        return keys

    def _look_for_missing(self, conn: Connection) -> None:
        """Note every row that has content and no old vector; what comes later, change capture tells of."""
        for leaf, first, last in page_ranges(conn, self._job.migration.table_oid, SCAN_BLOCKS):
            if self._job.stop.is_set():
                return
            with conn.transaction():
                mark_missing(conn, self._job.migration, leaf, first, last)
