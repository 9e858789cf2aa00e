"""Keeping up with the application: drains the change-capture queue, on both sides after the cutover."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import psycopg

from embedtui.engine.backfill.captured_changes import Change, Said, combine, left_behind, rename
from embedtui.engine.backfill.embedding import ConfigurationFault, NoAnswer, Outcome, RowEmbedder
from embedtui.engine.backfill.job import Job
from embedtui.engine.backfill.locked_rows import LockedRows
from embedtui.engine.backfill.old_side import OldSide, Wanted
from embedtui.engine.backfill.old_writes import Unwritable, each_row, refusing, refusing_rows
from embedtui.engine.backfill.packing import Limits, pack
from embedtui.engine.backfill.recent import RecentlyEmbedded
from embedtui.engine.backfill.unstored import Unstored
from embedtui.engine.backfill.upkeep import Upkeep
from embedtui.formatting import counted
from embedtui.model import FaultClass, Key, Side
from embedtui.model.faults import CUT_SHARE
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.locks import try_sync
from embedtui.postgres.sides.protocol import QueuedRow, SourceRow
from embedtui.postgres.sides.side_table import TablePlacement
from embedtui.postgres.state.audit import TRY_SECONDS
from embedtui.postgres.state.faults import UNDONE, UNWRITABLE, UNWRITTEN, forget_faults, record_faults, truncated_rows
from embedtui.postgres.state.queue import (
    Entry,
    count_synced,
    entries_of,
    forget_entries,
    next_entries,
)
from embedtui.postgres.state.spending import add_tokens
from embedtui.postgres.state.stale import add_stale, forget_stale, marks_among

T = TypeVar("T")

BATCH = 256
"""Queue entries taken at a time."""
TEND_SECONDS = 5.0
"""While nothing is queued: how often rows that are gone are forgotten, and stale ones tried again."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Rows to look after, of one moment."""

    changes: dict[Key, Change]
    rows: list[QueuedRow]
    maintain_old: bool
    """The old side is ours to maintain, too."""
    truncated: dict[tuple[Side, Key], int]
    """Attempts of rows whose text is to be cut, for a side's model."""


class Sync:
    """Drains the queue of one migration; used by one thread at a time."""

    def __init__(
        self, job: Job, new: RowEmbedder, old: RowEmbedder | None, *, characters_per_token: Callable[[], float]
    ) -> None:
        self._job, self._characters_per_token = job, characters_per_token
        self._new, self._old_side = new, OldSide(job, old, self._database)
        self._link: Link = job.link("sync", writes=True)
        self._upkeep, self.locked = Upkeep(job, self._database), LockedRows(job, self._database)
        self._recent, self._unstored = RecentlyEmbedded(), Unstored()
        self._after = 0
        """Id of the last entry that was put off in this round."""
        self._tend_at = self._look_at = self._try_at = 0.0

    def close(self) -> None:
        """Release the connection, and with it the right to sync."""
        self._link.drop()

    def step(self) -> int:
        """Work off up to ``BATCH`` entries; the number taken (0: nothing to do now, or another process syncs).

        Raises:
            Interrupted: the job was stopped.
            ConfigurationFault: the new model's provider refuses us as configured.
        """
        texts = self._database(self._expand)
        entries = None if texts is None else self._database(self._take)
        if entries is None or not (entries or self._after):
            self.locked.forget()
        if texts is None or entries is None:
            return 0
        if time.monotonic() >= self._look_at:  # also where the application keeps the queue from ever being empty
            self._look_at = time.monotonic() + TEND_SECONDS
            self._database(self._upkeep.look_for_partitions)
            self._upkeep.scan()
        if not entries:
            self._after = 0
            return texts or self._tend()
        self._after = entries[-1].id
        self._job.doing(f"syncing {counted(len(entries), 'change', 'changes')}")
        if structural := [entry for entry in entries if entry.kind in "dt"]:
            self._database(lambda conn: _remove(self._job, conn, structural))
        hasty = set() if self._upkeep.ending else {each.key for each in entries if self._recent.too_often(each.key)}
        keys = {entry.key for entry in entries if entry.kind not in "dt"} - hasty - self.locked.still()
        if keys:
            self._work(keys)
        elif not structural and len(entries) < BATCH:
            self._after = 0
            return texts or self._tend()  # only entries that were put off
        return len(entries)

    def hurry_old_side(self) -> bool:
        """Have its marked rows looked after at once; whether the old model answers. From any thread."""
        self._tend_at = 0.0
        return self._old_side.model is not None

    def _database(self, work: Callable[[Connection], T]) -> T:
        return self._job.with_database(self._link, work)

    def _expand(self, conn: Connection) -> int | None:
        """Queue rows in the place of the texts in another table that they refer to; the number of texts.

        None where another process syncs.
        """
        if self._job.migration.text_table is None:
            return 0
        return self._upkeep.expand_texts(conn) if try_sync(conn, self._job.migration.id) else None

    def _take(self, conn: Connection) -> list[Entry] | None:
        """The next entries; None where another process syncs."""
        number, sound = self._job.migration.id, self._upkeep.sound
        return sound(conn, next_entries(conn, number, self._after, BATCH)) if try_sync(conn, number) else None

    def _tend(self) -> int:
        """With nothing queued: forget what rows that are gone left behind, and try the old side's stale rows again."""
        moment = time.monotonic()
        if moment < self._tend_at:
            return 0
        self._tend_at = moment + TEND_SECONDS
        self._recent.trim()
        self._database(self._upkeep.require_table)
        self._database(self._upkeep.sound_texts)
        self._database(self._upkeep.follow_rights)
        self._database(self._job.placement.forget_gone)
        if scanned := self._upkeep.scan():
            return scanned
        if moment >= self._try_at:
            self._try_at = moment + TRY_SECONDS
            self._database(self._old_side.try_out)
        again, more = self._old_side.to_do(BATCH)
        if again:
            self._work(set(again))
        if more:
            self._tend_at = 0.0
        return len(again)

    # -------------------------------------------------------------------------------------------------- embedding

    def _work(self, keys: set[Key]) -> None:
        read = self._database(lambda conn: self._read(conn, keys))
        todo, trust = read.changes, self._job.migration.stored.trust_application
        wanted: dict[Side, list[SourceRow]] = {Side.NEW: [], Side.OLD: []}
        written: dict[Side, list[SourceRow]] = {Side.NEW: [], Side.OLD: []}
        behind: dict[Key, bool] = {}
        for item in read.rows:
            change = todo[item.row.key]
            if item.blank:
                continue
            if change.new_wanted(item, trust):
                change.sides.add(Side.NEW)
                wanted[Side.NEW].append(self._shortened(read, item.row, Side.NEW))
                item = replace(item, row=replace(item.row, new_digest=""))  # the old side is not made of that vector
            elif change.said.get(Side.NEW) is Said.WRITTEN:
                written[Side.NEW].append(item.row)
            if change.old_written(item, trust):
                written[Side.OLD].append(item.row)
            elif read.maintain_old and change.old_wanted(item):
                change.sides.add(Side.OLD)
                wanted[Side.OLD].append(self._shortened(read, item.row, Side.OLD))
            elif change.captured and change.old_wanted(item):
                behind[item.row.key] = not item.old_present
        self._database(lambda conn: self._respect(conn, todo, written))
        if came := [key for key, change in todo.items() if change.foreign_mark]:
            self._database(lambda conn: forget_stale(conn, self._job.migration.id, came, Side.OLD))
        if behind:  # until the cutover the application's own matter, and noted: a rollback would find them so
            self._database(lambda conn: add_stale(conn, self._job.migration.id, behind))
        # Nothing to embed: fresh already, the application's own, blank, or deleted meanwhile.
        settled = [key for key, change in todo.items() if not change.sides]
        blank = [item.row.key for item in read.rows if item.blank]
        self._settle(todo, settled, None, blank)
        for side, needed in wanted.items():
            if needed:
                self._side(todo, side, needed)

    def _shortened(self, read: _Read, row: SourceRow, side: Side) -> SourceRow:
        model = self._job.migration.new_model if side is Side.NEW else self._job.migration.old_model
        return _cut(row, model.max_input_tokens * self._characters_per_token(), read.truncated.get((side, row.key), 0))

    def _read(self, conn: Connection, keys: set[Key]) -> _Read:
        """Rows and all that is queued for them, of one moment: in between, the application may write a vector."""
        number = self._job.migration.id
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            conn.execute("SET LOCAL enable_hashjoin = on")  # the queue may be long, and keys have no index in it
            entries = entries_of(conn, number, keys)
            conn.execute("SET LOCAL enable_hashjoin = off")
            maintain_old = self._old_side.ours(conn)
            truncated = truncated_rows(conn, number)
            known = {*keys, *(entry.key for entry in entries), *(entry.was for entry in entries if entry.was)}
            marks = marks_among(conn, number, known)
            changes = combine(entries, marks, self._job.migration.stored.trust_application)
            rows = self._upkeep.read_keys(conn, list(changes))
        for row in rows:
            if row.asked != row.row.key and row.asked in changes:
                rename(changes, row.asked, row.row.key)
        rows = list({row.row.key: row for row in rows}.values())
        for row in rows:
            if row.text_waits:  # an edit may have come before what is queued of the row itself
                changes.pop(row.row.key, None)
        rows = [row for row in rows if not row.text_waits]
        return _Read(changes, rows, maintain_old, truncated)

    def _respect(self, conn: Connection, todo: dict[Key, Change], written: dict[Side, list[SourceRow]]) -> None:
        """What the application wrote stands: it is neither faulty nor stale, and says nothing of us."""
        if not any(written.values()):
            return
        with conn.transaction():
            adopted = self._job.placement.adopt(conn, written[Side.NEW]) if written[Side.NEW] else set()
            _clear(conn, self._job.migration.id, adopted, Side.NEW)
            _clear(conn, self._job.migration.id, [row.key for row in written[Side.OLD]], Side.OLD)
        for row in written[Side.NEW]:
            if row.key not in adopted:  # locked, or written again: its entries stay until it is
                todo[row.key].sides.add(Side.NEW)
                self.locked.met([row.key])

    def _side(self, todo: dict[Key, Change], side: Side, rows: list[SourceRow]) -> None:
        embedder = self._new if side is Side.NEW else self._old_side.model
        if embedder is None:
            self._old_side.give_up()
            self._do_without(todo, rows)
            return
        if side is Side.OLD and (probes := self._old_side.probes) is not None:
            self._do_without(todo, rows[probes:])
            rows = rows[:probes]
        if too_long := [row for row in rows if row.characters > len(row.text)]:
            self._fault(todo, side, too_long, "longer than any text the model could take")
            rows = [row for row in rows if row.characters <= len(row.text)]
        open_keys = {row.key for row in rows}
        kept = self._unstored.of(side, rows)
        limits = Limits(embedder.model.max_inputs, embedder.model.max_tokens, embedder.model.max_input_tokens)
        try:
            if kept is not None:
                self._store(todo, side, kept)
                open_keys -= {row.key for row in kept.rows}
                rows = [row for row in rows if row.key in open_keys]
            for batch in pack(rows, limits, self._characters_per_token(), per_page=None):
                for outcome in embedder.embed(batch, self._job.stop):
                    keys = {row.key for row in outcome.rows}
                    open_keys -= keys
                    if outcome.fault:
                        self._fault(todo, side, outcome.rows, outcome.fault)
                    else:
                        self._recent.add(keys)
                        self._store(todo, side, outcome)
        except (ConfigurationFault, NoAnswer) as fault:
            if side is Side.NEW:
                raise
            self._old_side.lose(fault.message)
            self._do_without(todo, [row for row in rows if row.key in open_keys])
        except Unwritable as refusal:
            self._database(self._upkeep.require_table)  # it may be another table by now
            self._old_side.refuse(str(refusal))
            self._do_without(todo, [row for row in rows if Side.OLD in todo[row.key].sides])

    def _store(self, todo: dict[Key, Change], side: Side, outcome: Outcome) -> None:
        rows, store = outcome.rows, partial(self._store_part, todo, side, outcome)
        if side is Side.NEW:
            refused = each_row(len(rows), store)
        else:
            self._database(lambda conn: add_tokens(conn, self._job.migration.id, "old_tokens", outcome.tokens))
            refused = self._old_side.write(rows, store)
            if len(refused) < len(rows):
                self._old_side.answers()
        for place, refusal in refused.items():
            self._fault(todo, side, [rows[place]], f"{UNWRITTEN if side is Side.NEW else UNWRITABLE}{refusal}")

    def _store_part(self, todo: dict[Key, Change], side: Side, outcome: Outcome, part: slice) -> set[Key]:
        undone, rows = set[Key](), len(outcome.rows)

        def work(conn: Connection) -> set[Key]:
            undone.clear()
            with refusing(conn) if side is Side.OLD else refusing_rows(), conn.transaction():
                written = self._job.placement.replace(conn, outcome.rows[part], outcome.vectors[part], side, undone)
                _settle_in(conn, self._job.migration.id, todo, written, side)
                _clear(conn, self._job.migration.id, written, side)
                if side is Side.NEW:
                    share = outcome.tokens * part.stop // rows - outcome.tokens * part.start // rows
                    count_synced(conn, self._job.migration.id, tokens=share, first=_first(todo, outcome.rows, written))
            return written

        written = self._database(work)
        if side is Side.NEW:
            self._job.add_rows(len(written))
        for key in written:
            todo[key].sides.discard(side)
        self._unstored.tried(side, outcome.rows[part], outcome.vectors[part], {*written, *undone})
        self.locked.met(row.key for row in outcome.rows[part] if row.key not in written | undone)
        if refused := [row for row in outcome.rows[part] if row.key in undone]:
            reason = UNDONE if side is Side.NEW else f"{UNWRITABLE}{UNDONE}"
            self._fault(todo, side, refused, reason)  # else it would be embedded, and paid for, again and again
        return written

    def _fault(self, todo: dict[Key, Change], side: Side, rows: Sequence[SourceRow], reason: str) -> None:
        keys = [row.key for row in rows]

        def work(conn: Connection) -> None:
            with conn.transaction():
                record_faults(conn, self._job.migration.id, [(key, reason) for key in keys], side)
                if side is Side.OLD:
                    add_stale(conn, self._job.migration.id, {row.key: not row.old_digest for row in rows})
                _settle_in(conn, self._job.migration.id, todo, keys, side)

        self._database(work)
        for key in keys:
            todo[key].sides.discard(side)
        self._job.failed(f"Row {', '.join(keys[0])} is rejected ({side} side): {reason}", FaultClass.ROW)

    def _do_without(self, todo: dict[Key, Change], rows: Sequence[SourceRow]) -> None:
        """The old model gives no vectors: the bridge does, or a rollback would find these rows' old ones stale."""
        wanted = []
        for row in rows:
            change = todo[row.key]
            wanted.append(Wanted(row, change.mark if change.said.get(Side.OLD) is Said.BRIDGED else None))

        def work(conn: Connection) -> None:
            with conn.transaction():
                self._old_side.stand_in(conn, wanted)
                _settle_in(conn, self._job.migration.id, todo, [row.key for row in rows], Side.OLD)

        self._database(work)
        for row in rows:
            todo[row.key].sides.discard(Side.OLD)

    def _settle(
        self, todo: dict[Key, Change], keys: Sequence[Key], side: Side | None, blank: Sequence[Key] = ()
    ) -> None:
        """Forget entries that need nothing; ``blank`` rows have no fault either, for there is nothing to embed."""
        if not keys:
            return

        def work(conn: Connection) -> None:
            with conn.transaction():
                _settle_in(conn, self._job.migration.id, todo, keys, side)
                if blank:
                    _clear(conn, self._job.migration.id, blank, Side.NEW)
                    _clear(conn, self._job.migration.id, blank, Side.OLD)

        self._database(work)


def _settle_in(
    conn: Connection, migration_id: int, todo: dict[Key, Change], keys: Iterable[Key], side: Side | None
) -> None:
    """Forget the entries of keys for which nothing but ``side`` was left; repeatable."""
    done = [key for key in keys if not todo[key].sides - {side}]
    _clear(conn, migration_id, left_behind(todo, done), Side.OLD)
    forget_entries(conn, migration_id, [number for key in done for number in todo[key].ids])


def _first(todo: dict[Key, Change], rows: Sequence[SourceRow], written: set[Key]) -> int:
    """Planned rows among those written that had no new vector: the backfill finds nothing to do there any more."""
    return sum(row.key in written and not row.new_digest and bool(todo[row.key].planned) for row in rows)


def _remove(job: Job, conn: Connection, entries: Sequence[Entry]) -> None:
    """Take away what the side table has of rows that are gone, and what was queued for that."""
    placement, number, ids = job.placement, job.migration.id, [entry.id for entry in entries]
    with conn.transaction():
        if isinstance(placement, TablePlacement):
            if not any(entry.kind == "t" for entry in entries):
                with contextlib.suppress(psycopg.DataError), conn.transaction():  # a key that cannot be read
                    placement.remove_orphans(conn, [entry.key for entry in entries])
                    forget_entries(conn, number, ids)
                    return
            placement.remove_orphans(conn)
        forget_entries(conn, number, ids)


def _cut(row: SourceRow, most: float, attempts: int) -> SourceRow:
    """A text of ``most`` characters; that is by an average, and each further attempt cuts deeper."""
    if not attempts:
        return row
    text = row.text[: max(1, int(most * CUT_SHARE**attempts))]
    return replace(row, text=text, characters=len(text))


def _clear(conn: Connection, migration_id: int, keys: Iterable[Key], side: Side) -> None:
    """These rows have no fault any more, and are not stale, on this side."""
    listed = list(keys)
    forget_faults(conn, migration_id, listed, side)
    forget_stale(conn, migration_id, listed, side)
