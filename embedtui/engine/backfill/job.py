"""What the threads of one worker process share: the migration, the stop signal, the holds, and who does what."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from embedtui.engine.backfill.episodes import Episodes
from embedtui.engine.backfill.sessions import Sessions
from embedtui.engine.resilience import LONGEST_WAIT, with_database
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.formatting import duration
from embedtui.model import (
    Event,
    EventSink,
    Failed,
    FaultClass,
    Held,
    Hold,
    Migration,
    Noted,
    ThreadStatus,
    hold_word,
)
from embedtui.model.snapshot import GOES_ON, LOCKED_ROWS, PACE
from embedtui.postgres.connect import Connection, Link
from embedtui.postgres.sides.batch import prepare_batch
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.sides.protocol import Placement
from embedtui.postgres.state.workers import Wanted
from embedtui.providers import ProviderFault
from embedtui.redaction import redact

T = TypeVar("T")

POLL = 0.1
"""Seconds between looks at the stop signal while waiting."""
IDLE_SECONDS = 0.25
"""Pause between looks at what others may change: an empty queue, a hold."""
WRITE_LOCK_MS = 500
"""Longest wait for a lock in a transaction that writes vectors."""
STARTING = "starting"
"""What a worker says that it does until it has begun with something."""
OF_THE_PROVIDER = ("provider", "rate")
"""Holds that end when the provider answers again."""
LOCK = "lock"
"""Hold while statements wait for a lock that somebody else has."""
PACER_HOLDS = ("provider", "spend_cap", "rate", PACE)
"""Holds that the pacer waits out by itself."""


def now() -> datetime:
    """The present time, aware."""
    return datetime.now(UTC)


def _over(hold: Hold) -> str:
    """That a hold is over, and how long it lasted."""
    lasted = f" after {duration((now() - hold.since).total_seconds())}" if hold.since is not None else ""
    if hold.name in OF_THE_PROVIDER:
        return f"Provider back{lasted}; before that: {hold.cause}"
    return f"No longer held{lasted}: {hold_word(hold.name)}"


class Job:
    """Shared by the threads of one process; every method may be called from any thread."""

    def __init__(self, dsn: str, migration: Migration, sink: EventSink | None, *, rows: int = 0) -> None:
        """Share what the threads need; ``rows`` were written by this process before."""
        self.dsn = dsn
        self.migration = migration
        self.placement: Placement = make_placement(migration)
        self.reloads = migration.run_state.reloads
        """As often the workers had been asked to read their settings when those of this job were read."""
        self.episodes = Episodes()
        """What held this process up, for the log."""
        self.sessions = Sessions()
        self.stop = threading.Event()
        """Set by ``halt`` only, so that the stages' own signals follow."""
        self._sink = sink
        self._lock = threading.Lock()
        """Of all that follows."""
        self._children: list[threading.Event] = []
        self._worker_id: int | None = None
        self._wanted, self._wanted_at = Wanted(), 0.0
        self._stop_wanted = self._reload_wanted = False
        self._undisturbed = 0
        """What has to end before a reload interrupts the work."""
        self.pending_failure: EmbedtuiError | None = None
        """Why the job stopped itself, if it did."""
        self.await_first: Callable[[threading.Event], None] = lambda _: None
        """Nothing is sent before it has returned; what it raises ends the work."""
        self.pacer_hold: Callable[[], Hold | None] = lambda: None
        """What the pacer waits for, if anything."""
        self.in_flight: Callable[[], int] = lambda: 0
        """Requests on the wire."""
        self.waiting: Callable[[], Mapping[str, str]] = dict
        """By thread, what it waits for before it sends."""
        self._holds: dict[str, Hold] = {}
        self._limits_told: set[str] = set()
        self._doing: dict[str, tuple[str, datetime]] = {}
        self._rows = rows

    # --------------------------------------------------------------------------------------------------- database

    def link(self, name: str, *, writes: bool = False, statement_timeout_ms: int = 60_000) -> Link:
        """A connection of its own for one thread; one that writes is made ready for it."""
        # A write that waits while it holds row locks ends before PostgreSQL looks for deadlocks (after 1 s), so that
        # one with the application ends ours and never the application's.
        options = {"lock_timeout_ms": WRITE_LOCK_MS} if writes else {}
        link = Link(self.dsn, name, statement_timeout_ms=statement_timeout_ms, **options)
        if writes:
            link.on_open = prepare_batch
        self.sessions.add(link)
        return link

    def with_database(
        self,
        link: Link,
        work: Callable[[Connection], T],
        stop: threading.Event | None = None,
        *,
        longest_wait: float = LONGEST_WAIT,
    ) -> T:
        """As :func:`~embedtui.engine.resilience.with_database`; while the database is away the work is held.

        Raises:
            Interrupted: ``stop`` (the job's, by default) was set while waiting.
            EmbedtuiError: anything that waiting does not cure.
        """
        away = False

        def lost(message: str) -> None:
            nonlocal away
            away = True
            if not (self.sessions.locked_out(link) and LOCK in self._holds):  # else it is known who has the lock
                self.hold("database", message)

        with self.sessions.trying(link) as locked_out:
            try:
                return with_database(
                    link,
                    work,
                    stop=stop or self.stop,
                    on_lost=lost,
                    on_back=lambda: self.release("database"),
                    on_locked=locked_out,
                    longest_wait=longest_wait,
                )
            except BaseException:
                if away and not self.stop.is_set():  # the job goes on, and nobody else ends what this call began
                    self.release("database")
                raise

    # --------------------------------------------------------------------------------- the worker, and its operators

    @property
    def worker_id(self) -> int | None:
        """Id of this process among the workers; None until it is registered."""
        with self._lock:
            return self._worker_id

    def registered(self, worker_id: int) -> None:
        """Take over the id that the database gave this process."""
        with self._lock:
            self._worker_id = worker_id

    @property
    def wanted(self) -> Wanted:
        """What the operators want, as last read."""
        with self._lock:
            return self._wanted

    def heed(self, wanted: Wanted, read_since: float) -> None:
        """Take over what the operators want; ignored where another thread has read it later than this one.

        Args:
            wanted: as read.
            read_since: ``time.monotonic()`` before it was read.
        """
        with self._lock:
            if read_since < self._wanted_at:
                return
            self._wanted, self._wanted_at = wanted, time.monotonic()
            self._stop_wanted |= wanted.stop
            self._reload_wanted |= wanted.reloads not in (None, self.reloads)
            halts = self._halts
        if halts:
            self.halt()

    @property
    def _halts(self) -> bool:
        return self._stop_wanted or (self._reload_wanted and not self._undisturbed)

    @property
    def reloading(self) -> bool:
        """The operators want the settings read again; the work then goes on by them."""
        with self._lock:
            return self._reload_wanted and not self._stop_wanted

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Inside, the work is not interrupted in order to read the settings again; that comes after it."""
        with self._lock:
            self._undisturbed += 1
        try:
            yield
        finally:
            with self._lock:
                self._undisturbed -= 1
                halts = self._halts
            if halts:
                self.halt()

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

    def fail(self, error: EmbedtuiError) -> None:
        """Stop the job because of ``error``, unless something else has failed before."""
        with self._lock:
            self.pending_failure = self.pending_failure or error
        self.halt()

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

    def provider_failed(self, fault: ProviderFault) -> None:
        """The new model's provider is in trouble."""
        self.episodes.met("rate" if fault.code == "429" else "provider", fault.code, fault.seconds)
        self.failed(f"Provider: {fault.reason}", FaultClass.PROVIDER, fault.hint)

    def add_rows(self, count: int) -> None:
        """Count rows written by this process."""
        with self._lock:
            self._rows += count

    @property
    def rows(self) -> int:
        """Rows written by this process."""
        with self._lock:
            return self._rows

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

    def hold(self, name: str, detail: str, since: datetime | None = None) -> None:
        """Hold the work for the named reason (``since``: from then on, not from now) until ``release``."""
        with self._lock:
            known = self._holds.get(name)
            if known is not None and known.detail == detail:
                return
            self._holds[name] = Hold(name, redact(detail), known.since if known else since or now())
            new = known is None and detail not in self._limits_told
            if name == PACE:  # a limit is no trouble, and comes and goes: it is told once
                self._limits_told.add(detail)
            holds = tuple(self._holds.values())
        if name != PACE:
            self.episodes.begin(name, "" if name in OF_THE_PROVIDER else detail, since)  # of faults there are the codes
        if new:
            said = detail if name in GOES_ON else f"Held: {hold_word(name)}: {detail}"
            self.emit(Held(now(), redact(said), holds, (name,)))

    def release(self, *names: str) -> None:
        """End holds."""
        with self._lock:
            gone = [hold for name in names if (hold := self._holds.pop(name, None)) is not None]
            holds = tuple(self._holds.values())
        for hold in gone:
            self.episodes.end(hold.name)
        if gone := [hold for hold in gone if hold.name != PACE]:
            self.emit(Held(now(), "; ".join(map(_over, gone)), holds, tuple(hold.name for hold in gone)))

    @property
    def holds(self) -> tuple[Hold, ...]:
        """What holds this process now."""
        with self._lock:
            return tuple(self._holds.values())

    def replace_holds(self, names: Iterable[str], holds: Iterable[Hold]) -> None:
        """Bring the holds of one source, which has these names, up to date."""
        present = {hold.name: hold for hold in holds}
        self.release(*(name for name in names if name not in present))
        for hold in present.values():
            self.hold(hold.name, hold.detail, hold.since)

    def follow_pacer(self, hold: Callable[[], Hold | None], in_flight: Callable[[], int]) -> None:
        """Ask these from now on what the pacer waits for, and how many requests are on the wire."""
        with self._lock:
            self.pacer_hold, self.in_flight = hold, in_flight

    def wait_to_send(self, stop: threading.Event) -> None:
        """Wait until something may be sent to a provider; as :meth:`wait_while_held`.

        Raises:
            Interrupted: ``stop`` was set.
            EmbedtuiError: nothing may be sent at all.
        """
        self.await_first(stop)
        self.wait_while_held(stop)

    def wait_while_held(self, stop: threading.Event) -> None:
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
        with self._lock:
            # only the index waits for its own hold
            return self._wanted.paused or any(name not in (*PACER_HOLDS, LOCKED_ROWS, "index") for name in self._holds)
