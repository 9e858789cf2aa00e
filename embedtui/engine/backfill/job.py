"""What the threads of one worker process share: the migration, the stop signal, the holds, and who does what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.model import Event, EventSink, Failed, FaultClass, Held, Hold, Key, Migration, Noted, Side, ThreadStatus
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.sides.batch import prepare_batch
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.sides.protocol import Placement
from embedtui.redaction import redact

POLL = 0.1
"""Seconds between looks at the stop signal while waiting."""
WRITE_LOCK_MS = 500
"""Longest wait for a lock in a transaction that writes vectors."""


def now() -> datetime:
    """The present time, aware."""
    return datetime.now(UTC)


class Job:
    """Shared by the threads of one process; every method may be called from any thread."""

    def __init__(self, dsn: str, migration: Migration, sink: EventSink | None) -> None:
        self.dsn = dsn
        self.migration = migration
        self.placement: Placement = make_placement(migration)
        self.stop = threading.Event()
        """Set by ``halt`` only, so that the stages' own signals follow."""
        self.worker_id: int | None = None
        self.paused = False
        """What the operators want, as last read."""
        self.index_held = False
        """Whether they keep the index from being built."""
        self.pending_failure: EmbedtuiError | None = None
        """Why this process paused the run itself."""
        self.waits_for: Callable[[], Hold | None] = lambda: None
        """What the pacer waits for, if anything."""
        self._sink = sink
        self._children: list[threading.Event] = []
        self._holds: dict[str, Hold] = {}
        self._doing: dict[str, tuple[str, datetime]] = {}
        self._lock = threading.Lock()
        self._counted = threading.Lock()
        self.rows = 0
        """Rows written by this process."""

    def link(self, name: str, *, writes: bool = False, statement_timeout_ms: int = 60_000) -> Link:
        """A connection of its own for one thread; one that writes is made ready for it."""
        # A write that waits while it holds row locks ends before PostgreSQL looks for deadlocks (after 1 s), so that
        # one with the application ends ours and never the application's.
        options = {"lock_timeout_ms": WRITE_LOCK_MS} if writes else {}
        link = Link(self.dsn, name, statement_timeout_ms=statement_timeout_ms, **options)
        if writes:
            link.on_open = prepare_batch
        return link

    # --------------------------------------------------------------------------------------------------- stopping

    def child_stop(self) -> threading.Event:
        """A stop signal of one stage: set with the job's, or by the stage alone."""
        child = threading.Event()
        with self._lock:
            self._children.append(child)
            if self.stop.is_set():
                child.set()
        return child

    def halt(self) -> None:
        """Stop the job and all its stages."""
        self.stop.set()
        with self._lock:
            for child in self._children:
                child.set()

    # ------------------------------------------------------------------------------------------------- events

    def emit(self, event: Event) -> None:
        """Hand an event to the callback; never called under a lock, never lets the callback's error in."""
        if self._sink is not None:
            self._sink(event)

    def note(self, text: str) -> None:
        """A line for the log."""
        self.emit(Noted(now(), redact(text)))

    def failed(self, text: str, fault_class: FaultClass | None = None, hint: str = "") -> None:
        """Something the operator has to know."""
        self.emit(Failed(now(), redact(text), fault_class, hint))

    def add_rows(self, count: int) -> None:
        """Count rows written by this process."""
        with self._counted:
            self.rows += count

    # ---------------------------------------------------------------------------------------------- who does what

    def doing(self, what: str) -> None:
        """Say what the calling thread does now; shown among the workers."""
        name = threading.current_thread().name
        with self._lock:
            if self._doing.get(name, ("", None))[0] != what:
                self._doing[name] = (what, now())

    def idle(self) -> None:
        """The calling thread ends."""
        with self._lock:
            self._doing.pop(threading.current_thread().name, None)

    def activity(self) -> tuple[ThreadStatus, ...]:
        """What each thread does, sorted by name; one that has ended does nothing any more."""
        alive = {thread.name for thread in threading.enumerate()}
        with self._lock:
            return tuple(
                ThreadStatus(name, what, since) for name, (what, since) in sorted(self._doing.items()) if name in alive
            )

    # ------------------------------------------------------------------------------------------------------ holds

    def hold(self, name: str, detail: str) -> None:
        """Hold the work for the named reason until ``release``."""
        with self._lock:
            known = self._holds.get(name)
            if known is not None and known.detail == detail:
                return
            self._holds[name] = Hold(name, redact(detail), known.since if known else now())
            new = known is None
            holds = tuple(self._holds.values())
        if new:
            self.emit(Held(now(), f"Held: {name.replace('_', ' ')}: {redact(detail)}", holds))

    def release(self, *names: str) -> None:
        """End holds."""
        with self._lock:
            gone = [name for name in names if self._holds.pop(name, None) is not None]
            holds = tuple(self._holds.values())
        if gone:
            self.emit(Held(now(), f"No longer held: {', '.join(gone).replace('_', ' ')}", holds))

    @property
    def holds(self) -> tuple[Hold, ...]:
        """What holds this process now."""
        with self._lock:
            return tuple(self._holds.values())

    def replace_holds(self, prefix_names: Iterable[str], holds: Iterable[Hold]) -> None:
        """Bring the holds of one source (its names) up to date."""
        present = {hold.name: hold for hold in holds}
        self.release(*(name for name in prefix_names if name not in present))
        for hold in present.values():
            self.hold(hold.name, hold.detail)

    def gate(self, stop: threading.Event) -> None:
        """Wait while paused or held. No transaction may be open in the calling thread.

        Raises:
            Interrupted: ``stop`` was set.
        """
        while self.held:
            if stop.wait(POLL):
                raise Interrupted("Stopped.", hint="Run again to go on.")

    @property
    def held(self) -> bool:
        """Whether nothing new may be sent now."""
        return self.paused or self._blocking()

    def _blocking(self) -> bool:
        with self._lock:
            # the pacer waits for these by itself, and only the index waits for its own
            return any(name not in ("provider", "rate", "spend_cap", "index") for name in self._holds)


def queue_keys(conn: Connection, migration_id: int, keys: Iterable[Key], kind: str = "r") -> None:
    """Queue rows: for repair of the new side, or (kind ``u``) as edited."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.queue (migration, key, kind) VALUES (%s, %s, %s)",
            [(migration_id, list(key), kind) for key in keys],
        )


def record_faults(
    conn: Connection, migration: Migration, faults: Iterable[tuple[Key, str]], side: Side = Side.NEW
) -> None:
    """Store rows' faults with their reasons; seen again they count up and are open again."""
    with conn.cursor() as cursor, conn.transaction():
        cursor.executemany(
            "INSERT INTO embedtui.fault AS f (migration, key, side, class, reason) VALUES (%s, %s, %s, 'row', %s)"
            " ON CONFLICT (migration, side, key) DO UPDATE SET reason = excluded.reason, attempts = f.attempts + 1,"
            " state = 'open', last_seen = now()",
            [(migration.id, list(key), side.value, redact(reason)[:500]) for key, reason in faults],
        )
