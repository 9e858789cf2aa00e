"""Keeping up with the application: drains the change-capture queue, on both sides after the cutover."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.engine.embedding import ConfigurationFault, Outcome, RowEmbedder
from embedtui.engine.job import Job, record_faults
from embedtui.engine.resilience import with_database
from embedtui.model import FaultClass, Key, Side
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.placement import QueuedRow, SourceRow, TablePlacement
from embedtui.postgres.state import add_audit

T = TypeVar("T")

BATCH = 256
"""Queue entries taken at a time."""
EMBEDS_PER_KEY = 6
"""A key is embedded again at most so often a minute; a trigger that touches the content at every write ends there."""
WINDOW_SECONDS = 60.0
LOCK_CLASS = 0x6571  # advisory lock class: one process syncs a migration at a time


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the queue."""

    id: int
    key: Key
    kind: str


@dataclass
class _Todo:
    """What is left for one key of a batch."""

    ids: list[int] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    sides: set[Side] = field(default_factory=set)


class Sync:
    """Drains the queue of one migration; used by one thread at a time."""

    def __init__(
        self, job: Job, new: RowEmbedder, old: RowEmbedder | None, *, characters_per_token: Callable[[], float]
    ) -> None:
        self._job, self._characters_per_token = job, characters_per_token
        self._embedders = {Side.NEW: new, Side.OLD: old}
        self._link: Link = job.link("sync", writes=True)
        self._recent: dict[Key, list[float]] = defaultdict(list)
        self._after = 0
        """Id of the last entry that was put off in this round."""

    def close(self) -> None:
        """Release the connection, and with it the right to sync."""
        self._link.drop()

    def step(self) -> int:
        """Work off up to ``BATCH`` entries; the number taken (0: nothing to do now, or another process syncs).

        Raises:
            Interrupted: the job was stopped.
            ConfigurationFault: the new model's provider refuses us as configured.
        """
        entries = self._database(self._take)
        if not entries:
            self._after = 0
            return 0
        self._after = entries[-1].id
        self._job.doing(f"syncing {len(entries)} changes")
        structural = [entry for entry in entries if entry.kind in "dt"]
        if structural:
            self._database(lambda conn: self._remove(conn, structural))
        todo: dict[Key, _Todo] = {}
        for entry in entries:
            if entry.kind not in "dt" and not self._too_often(entry.key):
                known = todo.setdefault(entry.key, _Todo())
                known.ids.append(entry.id)
                known.kinds.add(entry.kind)
        if todo:
            self._work(todo)
        elif not structural and len(entries) < BATCH:
            self._after = 0
            return 0  # only entries that were put off
        return len(entries)

    def _database(self, work: Callable[[Connection], T]) -> T:
        return with_database(
            self._link,
            work,
            stop=self._job.stop,
            on_lost=lambda message: self._job.hold("database", message),
            on_back=lambda: self._job.release("database"),
        )

    def _take(self, conn: Connection) -> list[Entry]:
        got = conn.execute(
            "SELECT pg_try_advisory_lock(%(c)s, %(m)s) FROM (SELECT 1) x WHERE NOT EXISTS"
            " (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND classid = %(c)s AND objid = %(m)s"
            "  AND objsubid = 2 AND granted AND pid = pg_backend_pid()"
            "  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))",
            {"c": LOCK_CLASS, "m": self._job.migration.id},
        ).fetchone()
        if got is not None and not got[0]:
            return []
        rows = conn.execute(
            "SELECT id, key, kind::text FROM embedtui.queue WHERE migration = %s AND id > %s ORDER BY id LIMIT %s",
            [self._job.migration.id, self._after, BATCH],
        )
        return [Entry(number, tuple(key), kind) for number, key, kind in rows]

    def _too_often(self, key: Key) -> bool:
        moments = [at for at in self._recent[key] if time.monotonic() - at < WINDOW_SECONDS]
        if moments:
            self._recent[key] = moments
        else:
            del self._recent[key]
        return len(moments) >= EMBEDS_PER_KEY

    def _remove(self, conn: Connection, entries: Sequence[Entry]) -> None:
        placement = self._job.placement
        with conn.transaction():
            if isinstance(placement, TablePlacement):
                placement.remove_orphans(conn)
            self._forget(conn, [entry.id for entry in entries])

    def _forget(self, conn: Connection, ids: Iterable[int]) -> None:
        count = conn.execute("DELETE FROM embedtui.queue WHERE id = ANY (%s)", [list(ids)]).rowcount
        conn.execute(
            "UPDATE embedtui.migration SET synced = synced + %s WHERE id = %s", [count, self._job.migration.id]
        )

    # -------------------------------------------------------------------------------------------------- embedding

    def _work(self, todo: dict[Key, _Todo]) -> None:
        rows = self._database(lambda conn: self._read(conn, list(todo)))
        wanted: dict[Side, list[SourceRow]] = {Side.NEW: [], Side.OLD: []}
        for item, maintain_old, truncated in rows:
            entry = todo[item.row.key]
            if item.blank:
                continue
            if not item.new_fresh:
                entry.sides.add(Side.NEW)
                wanted[Side.NEW].append(self._cut(item.row, truncated))
            if maintain_old and (entry.kinds & {"u"} or not item.old_present):
                entry.sides.add(Side.OLD)
                wanted[Side.OLD].append(item.row)
        # Nothing to embed: fresh already, blank, or deleted meanwhile.
        self._settle(todo, [key for key, entry in todo.items() if not entry.sides], None)
        for side, needed in wanted.items():
            if needed:
                self._side(todo, side, needed)

    def _read(self, conn: Connection, keys: list[Key]) -> list[tuple[QueuedRow, bool, int]]:
        """(row, whether the old side is ours to maintain, attempts of a row to be truncated or 0)."""
        route = conn.execute(
            "SELECT active = 'new' FROM embedtui.route WHERE migration = %s", [self._job.migration.id]
        ).fetchone()
        maintain_old = bool(route and route[0])
        truncated = {
            tuple(key): attempts
            for key, attempts in conn.execute(
                "SELECT key, attempts FROM embedtui.fault WHERE migration = %s AND side = 'new' AND state = 'truncate'",
                [self._job.migration.id],
            )
        }
        return [
            (item, maintain_old, truncated.get(item.row.key, 0)) for item in self._job.placement.read_keys(conn, keys)
        ]

    def _cut(self, row: SourceRow, attempts: int) -> SourceRow:
        if not attempts:
            return row
        # The calibrated ratio is an average; each further attempt cuts deeper.
        most = int(self._job.migration.new_model.max_input_tokens * self._characters_per_token() * 0.8**attempts)
        text = row.text[: max(1, most)]
        return replace(row, text=text, characters=len(text))

    def _side(self, todo: dict[Key, _Todo], side: Side, rows: list[SourceRow]) -> None:
        embedder = self._embedders[side]
        too_long = [row for row in rows if row.characters > len(row.text)]
        if too_long:
            reason = "longer than any text the model could take"
            self._fault(todo, side, [row.key for row in too_long], reason)
            rows = [row for row in rows if row.characters <= len(row.text)]
        if embedder is None:
            self._mark_stale(todo, [row.key for row in rows])
            return
        open_keys = {row.key for row in rows}
        try:
            for outcome in embedder.embed(rows, self._job.stop):
                keys = {row.key for row in outcome.rows}
                open_keys -= keys
                if outcome.fault:
                    self._fault(todo, side, list(keys), outcome.fault)
                else:
                    self._store(todo, side, outcome)
        except ConfigurationFault as fault:
            if side is Side.NEW:
                raise
            why = fault.message
            self._embedders[Side.OLD] = None
            self._job.failed(f"The old side cannot be kept current: {fault.message}", FaultClass.CONFIGURATION)
            self._database(lambda conn: add_audit(conn, self._job.migration.id, "old model lost", why))
            self._mark_stale(todo, list(open_keys))

    def _store(self, todo: dict[Key, _Todo], side: Side, outcome: Outcome) -> None:
        moment = time.monotonic()
        for row in outcome.rows:
            self._recent[row.key].append(moment)

        def work(conn: Connection) -> set[Key]:
            with conn.transaction():
                written = self._job.placement.replace(conn, outcome.rows, outcome.vectors, side)
                self._settle_in(conn, todo, written, side)
                conn.execute(
                    sql.SQL(
                        "DELETE FROM {} f USING (SELECT DISTINCT ARRAY(SELECT jsonb_array_elements_text(e.value))"
                        " AS key FROM jsonb_array_elements(%s::jsonb) e) w"
                        " WHERE f.migration = %s AND f.side = %s AND f.key = w.key"
                    ).format(sql.Identifier("embedtui", "fault" if side is Side.NEW else "stale")),
                    [Jsonb([list(key) for key in written]), self._job.migration.id, side.value],
                )
            return written

        written = self._database(work)
        for key in written:
            todo[key].sides.discard(side)
        if side is Side.NEW:
            self._job.add_rows(len(written))

    def _fault(self, todo: dict[Key, _Todo], side: Side, keys: list[Key], reason: str) -> None:
        def work(conn: Connection) -> None:
            with conn.transaction():
                record_faults(conn, self._job.migration, [(key, reason) for key in keys], side)
                self._settle_in(conn, todo, keys, side)

        self._database(work)
        for key in keys:
            todo[key].sides.discard(side)
        self._job.failed(f"Row {', '.join(keys[0])} is rejected: {reason}", FaultClass.ROW)

    def _mark_stale(self, todo: dict[Key, _Todo], keys: list[Key]) -> None:
        """The old model no longer answers: a rollback would find these rows' old vectors stale."""

        def work(conn: Connection) -> None:
            with conn.transaction(), conn.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO embedtui.stale (migration, key) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                    [(self._job.migration.id, list(key)) for key in keys],
                )
                self._settle_in(conn, todo, keys, Side.OLD)

        self._database(work)
        for key in keys:
            todo[key].sides.discard(Side.OLD)

    def _settle(self, todo: dict[Key, _Todo], keys: Iterable[Key], side: Side | None) -> None:
        chosen = list(keys)
        if not chosen:
            return

        def work(conn: Connection) -> None:
            with conn.transaction():
                self._settle_in(conn, todo, chosen, side)

        self._database(work)

    def _settle_in(self, conn: Connection, todo: dict[Key, _Todo], keys: Iterable[Key], side: Side | None) -> None:
        """Forget the entries of keys for which nothing but ``side`` was left; repeatable."""
        self._forget(conn, [number for key in keys if not todo[key].sides - {side} for number in todo[key].ids])
