"""How far the backfill is, in one statement: tables ``migration``, ``shard`` and ``pace``."""

from __future__ import annotations

from dataclasses import dataclass

from embedtui.postgres.connect import Connection


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of a migration's work so far, and the pace it is held to."""

    total_rows: int | None
    """With something to embed; None until they were counted."""
    synced: int
    """Changes worked off."""
    rows: int
    """Planned rows that were given their new vector, by the backfill or by sync before it came to them."""
    synced_first: int
    """Of these, sync's."""
    updates: int
    hot_updates: int
    shards_done: int
    shards: int
    tokens: int
    """Of the backfill, of batch jobs and of sync together."""
    batch_tokens: int
    """Of batch jobs."""
    synced_tokens: int
    """Of sync."""
    old_tokens: int
    """Of the old model, for keeping its side current: which are none of the others."""
    asked_new: int
    """Of queries, and of rows that were embedded again only to look."""
    asked_old: int
    proof_tokens: int
    """Of the old model, before the first run."""
    spend_cap: float | None
    concurrency: int | None
    max_concurrency: int | None
    requests_per_minute: float | None
    tokens_per_minute: float | None
    requests: int
    """Let go to the provider so far, by all processes."""


def read_progress(conn: Connection, migration_id: int) -> Progress:
    """As of now."""
    row = conn.execute(
        "SELECT m.total_rows, m.synced, coalesce(s.rows, 0) + m.synced_first, m.synced_first,"
        " coalesce(s.updates, 0), coalesce(s.hot, 0),"
        " coalesce(s.done, 0), coalesce(s.count, 0), coalesce(s.tokens, 0) + m.synced_tokens + b.tokens, b.tokens,"
        " m.synced_tokens, m.old_tokens, m.asked_new, m.asked_old, m.proof_tokens,"
        " p.spend_cap, p.concurrency, p.max_concurrency, p.requests_per_minute, p.tokens_per_minute,"
        " coalesce(p.requests, 0)"
        " FROM embedtui.migration m LEFT JOIN embedtui.pace p ON p.migration = m.id"
        " CROSS JOIN LATERAL (SELECT coalesce(sum(tokens), 0)::bigint AS tokens FROM embedtui.batch_job"
        "   WHERE migration = m.id) b"
        " LEFT JOIN (SELECT migration, sum(rows)::bigint AS rows, sum(updates)::bigint AS updates,"
        "   sum(tokens)::bigint AS tokens, sum(hot_updates)::bigint AS hot,"
        "   count(*) FILTER (WHERE state = 'done') AS done, count(*) AS count"
        "   FROM embedtui.shard GROUP BY migration) s ON s.migration = m.id WHERE m.id = %s",
        [migration_id],
    ).fetchone()
    assert row is not None
    return Progress(*row)
