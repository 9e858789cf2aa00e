"""Who did what, when and from where: table ``audit``, append-only."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from psycopg import sql

from embedtui.model import AuditEntry
from embedtui.postgres.connect import Connection, host_name, operator_name
from embedtui.postgres.locks import ALIVE
from embedtui.redaction import redact

OLD_LOST, OLD_BACK = "old model lost", "old model answers"
"""What a worker writes when a call to the old model failed, and when one was answered again."""
OLD_DEAD = "old model dead"
"""What who asked it writes where it is no longer served; over by an answer to anybody."""
OLD_REFUSED, OLD_ACCEPTED = "old side refused", "old side accepted"
"""What a worker writes when the database accepted no old vector, and when it did again."""
TRY_SECONDS = 60.0
"""Before reads move: how often it is tried whether old vectors could be kept current."""
EPISODES = ("held", "over", "worker lost")
"""Acts that nobody does: what happens to the work."""
MOST_EPISODES = 1_000
"""Lines of them for a migration: the log of decisions is not to be buried, nor to grow without end."""
SAME_SECONDS = 60.0
"""Several workers meet the same outage, and one of them tells it."""
LOST_SECONDS = 10
"""Silence of a worker whose process seems gone, before that is noted: a restarted server is reached again sooner."""


def add_audit(conn: Connection, migration_id: int | None, act: str, detail: str = "") -> None:
    """Append a line to the audit log; secrets are redacted."""
    conn.execute(
        "INSERT INTO embedtui.audit (migration, who, host, act, detail) VALUES (%s, %s, %s, %s, %s)",
        [migration_id, operator_name(), host_name(), act, redact(detail)],
    )


def audit_sql(migration_id: int, act: str, detail: str, *, who: str = "", host: str = "") -> sql.Composed:
    """As :func:`add_audit`, one statement for the transaction of DDL; by default of this process's operator."""
    values = (migration_id, who or operator_name(), host or host_name(), act, redact(detail))
    return sql.SQL("INSERT INTO embedtui.audit (migration, who, host, act, detail) VALUES ({}, {}, {}, {}, {})").format(
        *map(sql.Literal, values)
    )


def read_audit(
    conn: Connection, migration_id: int | None, limit: int = 200, own_pids: Collection[int] = ()
) -> tuple[AuditEntry, ...]:
    """Newest first; those of this host with one of ``own_pids`` are ours."""
    rows = conn.execute(
        "SELECT at, who, host, act, detail, role, id, pid FROM embedtui.audit"
        " WHERE %(m)s::int IS NULL OR migration = %(m)s OR migration IS NULL ORDER BY id DESC LIMIT %(n)s",
        {"m": migration_id, "n": limit},
    )
    here = host_name()
    found = (AuditEntry(*row) for row in rows)
    return tuple(replace(each, own=each.host == here and each.pid in own_pids) for each in found)


def add_audit_once(conn: Connection, migration_id: int, act: str, detail: str) -> bool:
    """As :func:`add_audit`, unless the last line of this act says the same of this host; whether it was news."""
    last = conn.execute(
        "SELECT detail, host FROM embedtui.audit WHERE migration = %s AND act = %s ORDER BY id DESC LIMIT 1",
        [migration_id, act],
    ).fetchone()
    news = last != (redact(detail), host_name())
    if news:
        add_audit(conn, migration_id, act, detail)
    return news


def old_model_lost(conn: Connection, migration_id: int) -> bool:
    """Whether the last that was heard of the old model is that a call to it failed."""
    return bool(why_old_lost(conn, migration_id))


def why_old_lost(conn: Connection, migration_id: int) -> str:
    """Why the last call to the old model failed; empty where none did, or one was answered since."""
    return _unless_over(conn, migration_id, OLD_LOST, OLD_BACK)


def why_old_dead(conn: Connection, migration_id: int) -> str:
    """Why who asked the old model took it for dead; empty where nobody did, or it answered since."""
    return _unless_over(conn, migration_id, OLD_DEAD, OLD_BACK)


def tell_old_dead(conn: Connection, migration_id: int, why: str) -> None:
    """Append that the old model is dead, or (empty) answers again, unless that is known."""
    if bool(why) != bool(why_old_dead(conn, migration_id)):
        add_audit(conn, migration_id, OLD_DEAD if why else OLD_BACK, why)


def old_side_refused(conn: Connection, migration_id: int) -> str:
    """Why the database accepts no old vectors, as last met; empty where it does."""
    return _unless_over(conn, migration_id, OLD_REFUSED, OLD_ACCEPTED)


def _unless_over(conn: Connection, migration_id: int, act: str, over: str) -> str:
    """What the newest line of ``act`` says, unless one of ``over`` came after it."""
    row = conn.execute(
        "SELECT act, detail FROM embedtui.audit WHERE migration = %s AND act = ANY (%s) ORDER BY id DESC LIMIT 1",
        [migration_id, [act, over]],
    ).fetchone()
    return (row[1] or act) if row is not None and row[0] == act else ""


def tell_refused(conn: Connection, migration_id: int, why: str) -> bool:
    """Append that the database refuses old vectors, or (empty) accepts them again; False where that is known.

    One that differs by a row's number alone is known.
    """
    known = old_side_refused(conn, migration_id)
    if _NUMBERED.sub("#", known) == _NUMBERED.sub("#", redact(why)):
        return False
    add_audit(conn, migration_id, OLD_REFUSED if why else OLD_ACCEPTED, why)
    return True


_NUMBERED = re.compile(r"\w*\d[\w-]*")
"""Words that a message has from the row it is about: numbers, UUIDs."""

_ROOM = "(SELECT count(*) FROM embedtui.audit WHERE migration = %(migration)s AND act = ANY(%(acts)s)) < %(most)s"


def add_episode(conn: Connection, migration_id: int, act: str, name: str, detail: str) -> None:
    """Append that something named held the work, or is over; MOST_EPISODES lines at most.

    Once for all workers: not where another process's line of the same act is the newest about it.
    """
    conn.execute(
        "INSERT INTO embedtui.audit (migration, who, host, act, detail)"
        " SELECT %(migration)s, %(who)s, %(host)s, %(act)s, %(detail)s"
        f" WHERE {_ROOM} AND NOT EXISTS (SELECT FROM (SELECT act, at, host, pid FROM embedtui.audit"
        "   WHERE migration = %(migration)s AND act IN ('held', 'over') AND starts_with(detail, %(name)s)"
        "   ORDER BY id DESC LIMIT 1) newest"
        "  WHERE act = %(act)s AND at > clock_timestamp() - make_interval(secs => %(same)s)"
        "  AND (host, pid) IS DISTINCT FROM"
        "   (%(host)s, nullif(current_setting('embedtui.pid', true), '')::integer))",
        {
            "migration": migration_id,
            "who": operator_name(),
            "host": host_name(),
            "act": act,
            "name": f"{name}: ",
            "detail": redact(f"{name}: {detail}"),
            "same": SAME_SECONDS,
            "acts": list(EPISODES),
            "most": MOST_EPISODES,
        },
    )


def note_lost_workers(conn: Connection, migration_id: int) -> list[str]:
    """Append the workers that ended without a word, each once; the lines."""
    rows = conn.execute(
        "INSERT INTO embedtui.audit (migration, who, host, act, detail)"
        " SELECT w.migration, %(who)s, %(host)s, 'worker lost', format("
        "  'worker %%s (%%s:%%s) ended without a word; last heard of at %%s UTC, with %%s rows written',"
        "  w.id, w.host, w.pid, to_char(w.heartbeat AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), w.rows)"
        " FROM embedtui.worker w WHERE w.migration = %(migration)s AND w.stopped_at IS NULL"
        f" AND NOT {ALIVE.format('w.id')} AND w.heartbeat < clock_timestamp() - make_interval(secs => %(silent)s)"
        f" AND {_ROOM} AND NOT EXISTS (SELECT FROM embedtui.audit a WHERE a.migration = w.migration"
        "  AND a.act = 'worker lost' AND starts_with(a.detail, format('worker %%s ', w.id)))"
        " RETURNING detail",
        {
            "migration": migration_id,
            "who": operator_name(),
            "host": host_name(),
            "silent": LOST_SECONDS,
            "acts": list(EPISODES),
            "most": MOST_EPISODES,
        },
    )
    return [detail for (detail,) in rows]
