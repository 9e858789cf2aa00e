"""What operators decide while the work goes on: pause, pace, faulty rows, which workers stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embedtui.config.specs import MOST_CONCURRENCY
from embedtui.engine.access import Access
from embedtui.errors import Refused
from embedtui.formatting import counted, limit, money
from embedtui.model import Command, Condition, FaultState
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.migrations import ask_to_reload, set_condition, set_desired
from embedtui.postgres.state.models import forget_learnt
from embedtui.postgres.state.pace import unblock
from embedtui.postgres.state.queue import queue_keys
from embedtui.postgres.state.steering import change_concurrency as store_change
from embedtui.postgres.state.steering import decide_faults as decide_stored
from embedtui.postgres.state.steering import set_pace as store_pace
from embedtui.postgres.state.steering import stop_workers as ask_to_stop
from embedtui.postgres.state.workers import live_workers

_UNITS = {
    "requests_per_minute": "requests a minute",
    "tokens_per_minute": "tokens a minute",
    "max_concurrency": "requests in flight: at most",
    "spend_cap": "spend cap",
}


def pause(at: Access, reason: str = "") -> None:
    """Hold the work everywhere until :func:`resume`."""
    migration = at.allowed(Command.PAUSE)

    def work(conn: Connection) -> None:
        with conn.transaction():
            set_condition(conn, migration.id, Condition.IDLE)  # what had failed is now an operator's to lift
            set_desired(conn, migration.id, "pause", reason or "paused by the operator")

    at.write(work)


def resume(at: Access) -> None:
    """Let the work go on, everywhere."""
    migration = at.allowed(Command.RESUME)

    def work(conn: Connection) -> None:
        with conn.transaction():
            set_desired(conn, migration.id, "run")
            set_condition(conn, migration.id, Condition.IDLE)
            unblock(conn, migration.id)

    at.write(work)


def stop_workers(at: Access, ids: Sequence[int] | None = None) -> int:
    """Ask worker processes (None: all), wherever they run, to stop cleanly; how many were asked."""
    migration = at.require()

    def work(conn: Connection) -> int:
        with conn.transaction():
            asked = ask_to_stop(conn, migration.id, ids)
            if asked:
                add_audit(conn, migration.id, "stop", ", ".join(f"{host}:{pid}" for host, pid in asked))
        return len(asked)

    return at.write(work)


def reload(at: Access) -> int:
    """Read the settings again, here and in all worker processes wherever they run; how many were asked."""
    migration = at.allowed(Command.RELOAD)
    at.reread()

    def work(conn: Connection) -> int:
        with conn.transaction():
            ask_to_reload(conn, migration.id)
            asked = live_workers(conn, migration.id)
            # both were found of the endpoint as it was
            unblock(conn, migration.id)
            forget_learnt(conn, migration.old_model, migration.new_model)
            add_audit(conn, migration.id, "reload", ", ".join(f"{host}:{pid}" for host, pid in asked) or "no worker")
        return len(asked)

    return at.write(work)


def set_pace(at: Access, knobs: Mapping[str, float | int | None]) -> None:
    """Change the pace of all workers while they run; None leaves a knob as it is, 0 takes the limit away.

    Raises:
        Refused: a negative pace, or no concurrency.
    """
    migration = at.allowed(Command.PACE)
    changed = {name: value for name, value in knobs.items() if value is not None}
    if any(value < 0 for value in changed.values()) or changed.get("max_concurrency") == 0:
        raise Refused("A pace cannot be negative, and concurrency has to be at least 1.")

    def work(conn: Connection) -> None:
        with conn.transaction():
            for name, value in changed.items():
                store_pace(conn, migration.id, name, value or None)
            add_audit(conn, migration.id, "pace", _told(changed))

    if changed:
        at.write(work)


def change_concurrency(at: Access, by: int) -> tuple[int, int]:
    """Let workers have ``by`` more requests in flight (negative: fewer); the limit before, and now."""
    migration = at.allowed(Command.PACE)

    def work(conn: Connection) -> tuple[int, int]:
        with conn.transaction():
            before, now = store_change(conn, migration.id, by, MOST_CONCURRENCY)
            if now != before:
                add_audit(conn, migration.id, "pace", _told({"max_concurrency": now}))
        return before, now

    return at.write(work)


def _told(knobs: Mapping[str, float | int]) -> str:
    """What was set, in words."""
    said = []
    for name, value in knobs.items():
        unit = _UNITS[name]
        shown = money(value) if name == "spend_cap" else limit(value)
        if name.endswith("_per_minute"):
            said.append(f"{shown} {unit}" if value else f"no limit of {unit}")
        else:
            said.append(f"{unit} {shown}" if value else f"no {unit}")
    return ", ".join(said)


def decide_faults(at: Access, ids: Sequence[int] | None, state: FaultState) -> int:
    """What becomes of faulty rows (None: all that are open); how many."""
    migration = at.allowed(Command.FAULTS)

    def work(conn: Connection) -> int:
        with conn.transaction():
            keys = decide_stored(conn, migration.id, ids, state)
            if state is not FaultState.SKIPPED:
                queue_keys(conn, migration.id, keys)
            act = "shorten" if state is FaultState.TRUNCATE else state  # as keys and commands call it
            add_audit(conn, migration.id, f"faults {act}", counted(len(keys), "row", "rows"))
        return len(keys)

    return at.write(work)
