"""The thread that follows the pointer: LISTEN, a poll as the safety net, and reports to the operators."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic

import psycopg
from psycopg import errors

from embedtui.chance import chance
from embedtui.errors import DatabaseLost, EmbedtuiError, Refused
from embedtui.model import Side
from embedtui.postgres.connect import host_name, translate
from embedtui.postgres.notifications import hear, hear_waiting
from embedtui.postgres.state.listeners import ListenerReport, remove_listeners, report_listener
from embedtui.postgres.state.pointer import CHANNEL
from embedtui.postgres.state.route_side import read_sides
from embedtui.redaction import redact
from embedtui.router.maps import Maps
from embedtui.router.route import Tally
from embedtui.router.route_snapshot import R, RouteSnapshot, begun_anew, moved, snapshots_of

_log = logging.getLogger("embedtui.router")

_REPORT_SECONDS = 2.0
"""Between two reports; see ``LISTENER_ALIVE_SECONDS``, which allows for several lost ones."""

CONNECT_SECONDS = 5
"""Longest that a connection, and the first answer, is waited for."""

_RETRY_SECONDS = (0.1, 2.0)
"""First and longest wait before a lost connection is opened anew."""


@dataclass(frozen=True, slots=True)
class RouterStatus:
    """How well a Router is informed."""

    connected: bool
    """False: it goes on with the last known routes."""
    listening: bool
    """False on standbys and with ``listen=False``: the poll alone brings news. Behind a connection pooler False until a
    notification has come through it, since transaction pooling lets none through."""
    bound_seconds: float | None
    """A flip is noticed within milliseconds while listening, and within this many seconds at the latest; None while the
    connection is lost."""
    lost_since: datetime | None
    reporting: bool
    """Whether it may report epoch and searches to embedtui.listener."""
    detail: str
    """Why not, in one line without secrets."""
    epochs: dict[str, int]
    """Epoch seen of each route."""


class Follower(Generic[R]):
    """The part that sync and async share: a thread that follows the pointer, and routes in memory."""

    _route_class: Callable[..., R]

    def __init__(
        self,
        dsn: str,
        *,
        application_name: str = "",
        poll_seconds: float = 2.0,
        listen: bool = True,
    ) -> None:
        """Know the routes as none yet; the thread is started by the first look.

        Args:
            dsn: connection string of the database that holds the route (a standby will do).
            application_name: how this service is called on the operator's screen.
            poll_seconds: how often the route is read even if nothing was heard. It bounds how late a flip is noticed
                where LISTEN brings nothing: on standbys, and behind transaction pooling (PgBouncer), which is found
                out. Search there as you like; a server's own port for the Router makes it follow within milliseconds.
            listen: False spares a transaction pooler the LISTEN, which there stays on a session that others use.
        """
        self._dsn, self._application = dsn, application_name
        self._poll_seconds, self._listen = poll_seconds, listen
        self._known: dict[str, RouteSnapshot[R]] = {}
        self._tallies: dict[str, Tally] = {}
        self._by_view: set[str] = set()
        self._maps = Maps()
        self._wake_pair: tuple[socket.socket, ...] = ()
        """Reading and writing end of what interrupts the thread's waiting."""
        self._fresh()
        if hasattr(os, "register_at_fork"):
            this = weakref.ref(self)

            def after_fork() -> None:
                if (router := this()) is not None:
                    router._fresh()

            os.register_at_fork(after_in_child=after_fork)

    def _fresh(self) -> None:
        """As before the thread was started; in a forked child the thread is gone, the routes known stay."""
        self._id = uuid.uuid4()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._tried = threading.Event()
        self._stop = False
        self._connected = self._listening = False
        self._lost_since: datetime | None = None
        self._error: EmbedtuiError | None = None
        self._report_error = ""
        self._heard: list[str] = []
        for tally in self._tallies.values():
            tally.reset()
        self._close_wake()

    def _close_wake(self) -> None:
        for end in self._wake_pair:
            end.close()
        self._wake_pair = ()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._wake_pair = socket.socketpair()
                self._wake_pair[0].setblocking(False)
                self._stop = False
                self._tried.clear()
                self._thread = threading.Thread(target=self._follow, name="embedtui-router", daemon=True)
                self._thread.start()

    def _wake(self) -> None:
        for writer in self._wake_pair[1:]:
            with contextlib.suppress(OSError):
                writer.send(b"!")

    def _end(self) -> None:
        thread = self._thread
        if thread is not None:
            self._stop = True
            self._wake()
            thread.join(CONNECT_SECONDS + 5)
            self._thread = None
            self._close_wake()

    @property
    def status(self) -> RouterStatus:
        """How well this Router is informed."""
        problems = [str(self._error) if self._error else "", self._maps.error, self._report_error]
        return RouterStatus(
            connected=self._connected,
            listening=self._listening,
            bound_seconds=self._poll_seconds if self._connected else None,
            lost_since=self._lost_since,
            reporting=not self._report_error,
            detail=" ".join(filter(None, problems)),
            epochs={name: snapshot.epoch for name, snapshot in self._known.items()},
        )

    def route(self, name: str, key: str | None = None, *, model: str | int | None = None) -> R:
        """Where to search now, and with which model's vectors: from memory, without a query.

        Args:
            name: the route: the table's name unless configured otherwise.
            key: what a canary goes by, e.g. the user's id; the same key stays on its side. None: the active side.
            model: the model (name, or id in embedtui.model) that a query vector was made with already; it decides.

        Raises:
            Refused: no such route, or a model of neither side.
            DatabaseLost: the database has not been reached yet.
        """
        if self._thread is None:
            self._start()
        snapshot = self._known.get(name)
        if snapshot is None:
            snapshot = self._first(name)
        if name not in self._tallies:
            self._tallies[name] = Tally()
        return snapshot.choose(key) if model is None else snapshot.to_search(name, model)

    def of_side(self, name: str, side: Side) -> R | None:
        """That side of the route, whichever serves; None where it is gone: the cleanup takes the old one away."""
        self.route(name)
        return self._known[name].sides.get(side)

    def _first(self, name: str) -> RouteSnapshot[R]:
        self._tried.wait(CONNECT_SECONDS + 1)
        if name in self._known:
            return self._known[name]
        if self._error is not None:
            raise self._error
        if not self._connected:
            raise DatabaseLost("The database does not answer.", hint="Is the server running, and the DSN right?")
        raise Refused(f"There is no route {name!r}.", hint="It is made by `embedtui run`.")

    def goes_by_view(self, name: str) -> None:
        """Tell operators that this service finds the new side of route ``name`` by the routed view alone."""
        self._by_view.add(name)

    def _tally(self, name: str) -> Tally:
        return self._tallies.setdefault(name, Tally())

    # ------------------------------------------------------------------------------------------- the thread

    def _follow(self) -> None:
        delay = _RETRY_SECONDS[0]
        while not self._stop:
            try:
                with self._connect() as conn:
                    delay = _RETRY_SECONDS[0]
                    self._serve(conn)
            except (psycopg.Error, OSError) as error:
                self._connected = self._listening = False
                if self._lost_since is None:
                    self._lost_since = datetime.now(UTC)
                    _log.warning(
                        "route unknown for now, going on with the last known one: %s", translate(error, dsn=self._dsn)
                    )
                self._error = translate(error, dsn=self._dsn)
                self._tried.set()
                self._wait(None, delay * chance.uniform(0.5, 1.0))
                delay = min(delay * 2, _RETRY_SECONDS[1])
        self._connected = self._listening = False

    def _connect(self) -> psycopg.Connection[Any]:
        # No session settings: behind a pooler they would reach other clients.
        return psycopg.connect(
            self._dsn,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=CONNECT_SECONDS,
            client_encoding="utf8",  # whatever the service's is; poolers keep it apart for each client
            application_name=f"embedtui/router {self._application}".strip(),
            keepalives=1,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=4,
            tcp_user_timeout=30_000,  # a statement that is never acknowledged must not keep an old route for minutes
        )

    def _serve(self, conn: psycopg.Connection[Any]) -> None:
        """Follow the pointer on one connection until it is lost or the Router is closed."""
        self._report_error = ""
        self._heard = []
        # Also called for what arrives while another statement runs, which would otherwise wait for the poll.
        hear(conn, lambda payload: self._heard.append(payload))  # a new list each time
        if self._listen:
            try:
                conn.execute(f"LISTEN {CHANNEL}")
                self._listening = not _is_pooled(conn)
            except (errors.ReadOnlySqlTransaction, errors.FeatureNotSupported):  # a standby
                self._listening = False
        poll_at = report_at = 0.0
        while not self._stop:
            heard, self._heard = self._heard, []
            news = self._apply(heard)
            if heard or time.monotonic() >= poll_at:
                news = self._look_up(conn) or news
                poll_at = time.monotonic() + self._poll_seconds
            if news or time.monotonic() >= report_at:
                self._report(conn)
                report_at = time.monotonic() + _REPORT_SECONDS
            if not self._heard:
                self._wait(conn, max(0.0, min(poll_at, report_at) - time.monotonic()))
        self._sign_off(conn)

    def _wait(self, conn: psycopg.Connection[Any] | None, seconds: float) -> None:
        """Wait for a notification, a call to wake up, or the time."""
        wake = self._wake_pair[0]
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            if conn is not None:
                selector.register(conn, selectors.EVENT_READ)
            ready = {chosen.fileobj for chosen, _ in selector.select(seconds)}
        if wake in ready:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
        if conn is not None and conn in ready:
            before = len(self._heard)
            hear_waiting(conn, self._heard.append)
            self._listening |= len(self._heard) > before  # heard at rest: a pooler, if any, keeps our session

    def _apply(self, heard: list[str]) -> bool:
        """Follow moves that were told in full, without a query; whether any was. A look-up comes after it anyway."""
        any_moved = False
        for payload in heard:
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                told = json.loads(payload)
                snapshot = self._known[told["name"]]
                # The very next epoch, or something else may have changed in between. Anyone may NOTIFY: check.
                if (
                    snapshot.rows[0]["migration"] == told["migration"]
                    and snapshot.epoch + 1 == told["epoch"]
                    and told["active"] in ("old", "new")
                    and 0 <= told["canary"] <= 100
                ):
                    rows = [
                        row
                        | {"epoch": told["epoch"], "active": row["side"] == told["active"], "canary": told["canary"]}
                        for row in snapshot.rows
                    ]
                    self._known = self._known | {told["name"]: moved(snapshot, rows)}
                    any_moved = True
        return any_moved

    def _look_up(self, conn: psycopg.Connection[Any]) -> bool:
        """Read all routes in one statement; whether any changed."""
        try:
            rows = read_sides(conn)
        except (errors.UndefinedTable, errors.InvalidSchemaName, errors.InsufficientPrivilege) as error:
            self._error, self._connected = translate(error), True
            self._tried.set()
            return False
        self._tallies.update((name, Tally()) for name in begun_anew(rows, self._known))
        known = snapshots_of(rows, self._route_class, self._known, self._tally, self._maps.of(conn, rows))
        changed = known != self._known
        self._known = known  # one assignment: readers see the old state or the new one, whole
        if self._lost_since is not None:
            _log.warning("the database answers again; the route is up to date")
        self._connected, self._lost_since, self._error = True, None, None
        self._tried.set()
        return changed

    def _report(self, conn: psycopg.Connection[Any]) -> None:
        """Tell the operators the epoch seen and the searches so far; a Router that may not goes on without."""
        if self._report_error:
            return
        now = time.monotonic()
        reports = [
            ListenerReport(
                id=uuid.uuid5(self._id, name),
                name=name,
                host=host_name(),
                pid=os.getpid(),
                application=self._application,
                epoch=self._known[name].epoch,
                ago=now - self._known[name].seen,
                old=tally.counts[Side.OLD],
                new=tally.counts[Side.NEW],
                by_view=name in self._by_view,
                latency_ms=tally.latency_ms(),
            )
            for name, tally in list(self._tallies.items())
            if name in self._known
        ]
        try:
            for report in reports:
                report_listener(conn, report)
        except (
            errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction, errors.UndefinedTable, errors.UndefinedColumn
        ) as error:  # fmt: skip
            self._report_error = f"Not reporting: {redact(str(error.diag.message_primary))}."

    def _sign_off(self, conn: psycopg.Connection[Any]) -> None:
        if not self._report_error:
            ids = [uuid.uuid5(self._id, name) for name in self._tallies]
            with contextlib.suppress(psycopg.Error):
                remove_listeners(conn, ids)


def _is_pooled(conn: psycopg.Connection[Any]) -> bool:
    """Whether a pooler sits between: it names a backend of its own making, not the server's."""
    row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    return row is not None and row[0] != conn.info.backend_pid
