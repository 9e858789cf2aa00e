"""Batch jobs and the rows that their lines are about: tables ``batch_job`` and ``batch_line``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import Rollback, sql

from embedtui.model import BatchJobStatus, BatchStatus, Key, Migration
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import ALIVE
from embedtui.postgres.state.counters import LATELY, added
from embedtui.postgres.state.shards import (
    COLUMNS,
    GRACE_SECONDS,
    LEASE_SECONDS,
    OF_TABLE,
    PLACED,
    UNDER_WAY,
    Shard,
    shard_of,
)

_FREE = f"""
    (x.worker IS NULL OR x.worker = %(worker)s
     OR (SELECT backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid())
            < now() - make_interval(secs => %(grace)s)
        AND NOT {ALIVE.format("x.worker")}
        AND NOT EXISTS (SELECT FROM embedtui.worker b
                        WHERE b.id = x.worker AND {LATELY.format("b.heartbeat", "now()", "%(grace)s")}))
"""
"""SQL: nobody else works on the job x; a session that is new itself cannot tell, as of a shard."""

LOOK_SHARE, LOOK_SECONDS = 0.05, (0.2, 30.0)
"""A job is looked after once a twentieth of its age has passed again, within these bounds."""

_NEXT = f"""
UPDATE embedtui.batch_job j SET worker = %(worker)s, looked_at = now()
FROM (SELECT id FROM embedtui.batch_job x WHERE migration = %(migration)s AND {UNDER_WAY}
      AND (state <> 'sent' OR looked_at IS NULL OR looked_at < now() - make_interval(secs =>
           least(%(most)s, greatest(%(least)s, %(share)s * extract(epoch FROM now() - sent_at)::float8))))
      AND {_FREE}
      ORDER BY looked_at NULLS FIRST, id LIMIT 1 FOR UPDATE SKIP LOCKED) free
WHERE j.id = free.id
RETURNING j.id, j.token, j.state, j.file, j.batch, j.inputs, j.lines, j.estimate,
          extract(epoch FROM now() - j.asked_at)::float8, extract(epoch FROM now() - j.sent_at)::float8,
          extract(epoch FROM now() - j.missing_since)::float8
"""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job under way, as this process took it up."""

    id: int
    token: UUID
    state: str
    file: str
    batch: str
    inputs: int
    lines: int
    estimate: int
    """Tokens."""
    asked_seconds: float | None = None
    """Since the provider was asked to make it."""
    sent_seconds: float | None = None
    missing_seconds: float | None = None
    """Since the provider last knew of it, or of its file."""


@dataclass(frozen=True, slots=True)
class NewLine:
    """A line to be recorded."""

    number: int
    shard: int
    keys: tuple[Key, ...]
    sources: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class StoredLine:
    """A line whose answer is not stored, or not wholly."""

    shard: Shard
    keys: tuple[Key, ...]
    sources: tuple[int, ...]
    bytes: int
    counted: bool
    """Its tokens are."""


def record_job(
    conn: Connection,
    migration: Migration,
    worker: int | None,
    token: UUID,
    lines: Sequence[NewLine],
    shards: Sequence[int],
    *,
    inputs: int,
    estimate: int,
) -> BatchJob | None:
    """Record a job before anybody is asked for it, and its shards as in it.

    The worker's leases end with it. Runs in a transaction of its own. None, and nothing is recorded: the spend cap has
    no room, or a lease ran out meanwhile.
    """
    model = migration.new_model
    with conn.transaction() as transaction:
        reserved = model.at_live_price(estimate)
        room = conn.execute(
            f"UPDATE embedtui.pace SET spent_tokens = {added('spent_tokens', '%(need)s')}"
            " WHERE migration = %(migration)s AND (spend_cap IS NULL OR %(price)s::float8 = 0"
            "      OR (spent_tokens + %(need)s) * %(price)s::float8 / 1e6 <= spend_cap) RETURNING true",
            {"need": reserved, "migration": migration.id, "price": model.price_per_million},
        ).fetchone()
        if room is None:
            return None
        row = conn.execute(
            "INSERT INTO embedtui.batch_job (migration, token, worker, inputs, lines, estimate, reserved)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING id",
            [migration.id, token, worker, inputs, len(lines), estimate, reserved],
        ).fetchone()
        assert row is not None
        job = int(row[0])
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO embedtui.batch_line (job, number, shard, keys, sources, bytes)"
                " VALUES (%s, %s, %s, %s::text::jsonb, %s, %s)",
                [
                    (job, line.number, line.shard, json.dumps(line.keys), list(line.sources), line.bytes)
                    for line in lines
                ],
            )
        held = conn.execute(
            "UPDATE embedtui.shard SET state = 'batch', job = %s, worker = NULL,"
            " lease_until = now() + make_interval(secs => %s) WHERE id = ANY (%s) AND worker = %s AND state = 'leased'",
            [job, LEASE_SECONDS, list(shards), worker],
        ).rowcount
        if held != len(shards):  # a lease ran out meanwhile: its rows are somebody else's now
            raise Rollback(transaction)
        return BatchJob(job, token, "packed", "", "", inputs, len(lines), estimate)
    return None


def asked(conn: Connection, job: BatchJob, worker: int | None, file: str) -> bool:
    """Record that the provider is about to be asked to make the job; False where it is no longer this worker's."""
    return (
        conn.execute(
            "UPDATE embedtui.batch_job SET state = 'asked', file = %s, asked_at = now()"
            " WHERE id = %s AND worker = %s AND state IN ('packed', 'asked')",
            [file, job.id, worker],
        ).rowcount
        == 1
    )


def sent(conn: Connection, job: BatchJob, batch: str, status: str) -> bool:
    """Record that the provider has made it; any process looks after it now. False where it was given up meanwhile."""
    return (
        conn.execute(
            "UPDATE embedtui.batch_job SET state = 'sent', batch = %s, status = %s, sent_at = now(), worker = NULL"
            " WHERE id = %s AND state IN ('packed', 'asked')",
            [batch, status, job.id],
        ).rowcount
        == 1
    )


def next_job(conn: Connection, migration_id: int, worker: int | None) -> BatchJob | None:
    """A job that is due to be looked after, and that nobody else works on; it is this worker's until :func:`leave`."""
    least, most = LOOK_SECONDS
    row = conn.execute(
        _NEXT,
        {
            "worker": worker,
            "migration": migration_id,
            "grace": GRACE_SECONDS,
            "share": LOOK_SHARE,
            "least": least,
            "most": most,
        },
    ).fetchone()
    return None if row is None else BatchJob(*row)


def leave(conn: Connection, job: BatchJob, status: str, finished: int, *, missing: bool = False) -> None:
    """Record what the provider says of the job, and let any process look after it."""
    conn.execute(
        "UPDATE embedtui.batch_job SET worker = NULL, status = %s, finished = least(greatest(finished, %s), lines),"
        " missing_since = CASE WHEN %s THEN coalesce(missing_since, now()) END WHERE id = %s",
        [status, finished, missing, job.id],
    )


def load_line(conn: Connection, job: BatchJob, number: int, table_oid: int) -> StoredLine | None:
    """The line's rows; None where its answer is stored already, or it is none of the job's."""
    row = conn.execute(
        f"SELECT l.keys, l.sources, l.bytes, l.tokens IS NOT NULL, {COLUMNS}"
        f" FROM embedtui.batch_line l JOIN embedtui.batch_job j ON j.id = l.job, {PLACED}"
        " WHERE s.id = l.shard AND s.job = l.job AND s.state = 'batch' AND s.migration = j.migration"
        f" AND l.job = %(job)s AND l.number = %(number)s AND {OF_TABLE}",
        {"job": job.id, "number": number, "table": table_oid},
    ).fetchone()
    if row is None:
        return None
    keys, sources, size, counted, *shard = row
    return StoredLine(shard_of(*shard), tuple(tuple(key) for key in keys), tuple(sources), size, counted)


def settle_line(conn: Connection, job: BatchJob, number: int, *, tokens: int, rows: int, over: bool) -> None:
    """Count an answer once, whoever read it how often; ``over``: nothing is left to be stored of it."""
    with conn.transaction():
        first = conn.execute(
            "UPDATE embedtui.batch_line SET tokens = %s WHERE job = %s AND number = %s AND tokens IS NULL RETURNING 1",
            [tokens, job.id, number],
        ).fetchone()
        conn.execute(
            f"UPDATE embedtui.batch_job SET tokens = {added('tokens', digits=12)}, rows = {added('rows', digits=12)}"
            " WHERE id = %s",
            [tokens if first else 0, rows, job.id],
        )
        if over:
            conn.execute("DELETE FROM embedtui.batch_line WHERE job = %s AND number = %s", [job.id, number])


def end_job(conn: Connection, migration: Migration, job: BatchJob, *, reason: str, taken: bool) -> tuple[int, int]:
    """End a job: what it left is open again, what it did not use is no longer reserved; rows stored, and lines left.

    A shard of which some lines were never answered goes into the next job; one whose lines were all answered, and left
    something all the same, to the live endpoint.
    """
    with conn.transaction():
        row = conn.execute(
            "UPDATE embedtui.batch_job SET state = %s, reason = %s, worker = NULL, ended_at = now(), reserved = 0"
            f" WHERE id = %s AND {UNDER_WAY}"
            " RETURNING tokens, rows, (SELECT reserved FROM embedtui.batch_job o WHERE o.id = batch_job.id)",
            ["taken" if taken else "dropped", reason, job.id],
        ).fetchone()
        if row is None:
            return 0, 0
        tokens, rows, reserved = row
        conn.execute(
            f"UPDATE embedtui.pace SET spent_tokens = {added('spent_tokens')} WHERE migration = %s",
            [migration.new_model.at_live_price(tokens) - reserved, migration.id],
        )
        conn.execute(
            "UPDATE embedtui.shard s SET job = NULL, lease_until = NULL,"
            " state = CASE WHEN l.shard IS NULL THEN 'done' ELSE 'open' END, live = coalesce(l.answered, s.live)"
            " FROM embedtui.shard x LEFT JOIN (SELECT shard, bool_and(tokens IS NOT NULL) AS answered"
            "   FROM embedtui.batch_line WHERE job = %(job)s GROUP BY shard) l ON l.shard = x.id"
            " WHERE x.id = s.id AND s.job = %(job)s AND s.state = 'batch'",
            {"job": job.id},
        )
        left = conn.execute("DELETE FROM embedtui.batch_line WHERE job = %s", [job.id]).rowcount
    return int(rows), int(left)


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What the jobs under way hold together."""

    jobs: int
    inputs: int
    tokens: int


def enqueued(conn: Connection, migration_id: int) -> Enqueued:
    """As of now."""
    row = conn.execute(
        "SELECT count(*), coalesce(sum(inputs), 0)::bigint, coalesce(sum(estimate), 0)::bigint"
        f" FROM embedtui.batch_job WHERE migration = %s AND {UNDER_WAY}",
        [migration_id],
    ).fetchone()
    assert row is not None
    return Enqueued(*row)


def tokens_left(conn: Connection, migration: Migration) -> int | None:
    """Tokens at the live price that the spend cap leaves; None: there is no cap, or nothing costs anything."""
    row = conn.execute(
        "SELECT floor(spend_cap * 1e6 / %(price)s::float8 - spent_tokens)::bigint FROM embedtui.pace"
        " WHERE migration = %(migration)s AND spend_cap IS NOT NULL AND %(price)s::float8 > 0",
        {"price": migration.new_model.price_per_million, "migration": migration.id},
    ).fetchone()
    if row is not None:
        return int(row[0])
    capped = conn.execute(
        "SELECT spend_cap IS NOT NULL AND %s::float8 IS NULL FROM embedtui.pace WHERE migration = %s",
        [migration.new_model.price_per_million, migration.id],
    ).fetchone()
    return 0 if capped == (True,) else None  # without a price nothing may be spent


def open_jobs(conn: Connection, migration_id: int) -> tuple[BatchJob, ...]:
    """All jobs under way, oldest first."""
    rows = conn.execute(
        "SELECT id, token, state, file, batch, inputs, lines, estimate FROM embedtui.batch_job"
        f" WHERE migration = %s AND {UNDER_WAY} ORDER BY id",
        [migration_id],
    ).fetchall()
    return tuple(BatchJob(*row) for row in rows)


def drop_jobs_sql(migration: Migration) -> list[sql.Composed]:
    """Give up the jobs under way, whose shards go: what they reserved and did not use may be spent again."""
    values = {
        "id": sql.Literal(migration.id),
        "rate": sql.Literal(migration.new_model.at_live_price(1_000_000) / 1e6),
        "under_way": sql.SQL(UNDER_WAY),
    }
    return [
        sql.SQL(text).format(**values)
        for text in (
            "UPDATE embedtui.pace SET spent_tokens = least(1e15, greatest(0, spent_tokens + coalesce((SELECT"
            " sum(tokens * {rate} - reserved) FROM embedtui.batch_job WHERE migration = {id}"
            " AND {under_way}), 0)))::bigint WHERE migration = {id}",
            "UPDATE embedtui.batch_job SET state = 'dropped', reason = 'given up', reserved = 0, ended_at = now()"
            " WHERE migration = {id} AND {under_way}",
            "DELETE FROM embedtui.batch_line l USING embedtui.batch_job j WHERE j.id = l.job AND j.migration = {id}",
        )
    ]


def read_batches(conn: Connection, migration_id: int) -> BatchStatus:
    """What they did so far, but for the money; two cheap statements."""
    row = conn.execute(
        "SELECT count(*), coalesce(sum(rows), 0)::bigint, coalesce(sum(tokens), 0)::bigint"
        " FROM embedtui.batch_job WHERE migration = %s",
        [migration_id],
    ).fetchone()
    assert row is not None
    jobs, rows, tokens = row
    found = (
        conn.execute(
            "SELECT id, batch, CASE WHEN status <> '' THEN status ELSE state END, inputs, lines, finished,"
            " extract(epoch FROM now() - created_at)::float8, missing_since IS NOT NULL"
            f" FROM embedtui.batch_job WHERE migration = %s AND {UNDER_WAY} ORDER BY id",
            [migration_id],
        ).fetchall()
        if jobs
        else []
    )
    return BatchStatus(tuple(BatchJobStatus(*each) for each in found), jobs, rows, tokens)
