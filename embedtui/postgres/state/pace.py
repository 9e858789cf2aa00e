"""How fast all workers together may go: table ``pace``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal

from embedtui.config import PacingSettings
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.counters import added


def begin_pace(conn: Connection, migration_id: int, pacing: PacingSettings) -> None:
    """Store what a new migration begins with; operators change it while it runs."""
    conn.execute(
        "UPDATE embedtui.pace SET tokens_per_minute = %s, requests_per_minute = %s, max_concurrency = %s,"
        " spend_cap = %s WHERE migration = %s",
        [
            pacing.tokens_per_minute,
            pacing.requests_per_minute,
            pacing.max_concurrency,
            pacing.spend_cap,
            migration_id,
        ],
    )


def read_knobs(conn: Connection, migration_id: int) -> PacingSettings | None:
    """What operators have set; None where the row is gone."""
    row = conn.execute(
        "SELECT requests_per_minute, tokens_per_minute, max_concurrency, spend_cap FROM embedtui.pace"
        " WHERE migration = %s",
        [migration_id],
    ).fetchone()
    return None if row is None else PacingSettings(_maybe(row[0]), _maybe(row[1]), int(row[2]), _maybe(row[3]))


@dataclass(frozen=True, slots=True)
class PaceNews:
    """What one process tells the row, and asks of it."""

    token_rate: float | None
    """Tokens a minute that all processes together may use; None: not limited."""
    request_rate: float | None
    burst: float
    """Seconds of a minute's budget that the buckets save up while nobody asks, …"""
    need: int
    """… and at least so many tokens: those of the request that is next."""
    price: float | None
    """Per million tokens; None: not known."""
    settle: int
    """Tokens used beyond what was leased."""
    tokens: int
    """Wanted; negative: given back."""
    requests: int
    rejected: int
    """429s since the last time."""
    concurrency: int
    ratio: float | None
    """Characters per token of the replies since the last time."""
    block: float | None
    """Seconds for which nobody may ask the provider."""
    why: str
    probed: bool
    """A probe found the block."""
    clear: bool
    """The provider is well again."""
    claim: bool
    """Where a block has passed, this process wants to send the one probe."""
    probe: float
    """Seconds that a process may take over it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The row after the exchange, and what it granted."""

    tokens: int
    """Leased now; negative: taken back."""
    leases: int
    """The same of requests."""
    tokens_per_minute: float | None
    """The operator's limit."""
    requests_per_minute: float | None
    max_concurrency: int
    spend_cap: float | None
    spent_tokens: int
    """By all processes, those leased included."""
    requests: int
    """By all processes, those leased included."""
    rejected: int
    """429s of all processes."""
    characters_per_token: float | None
    blocked: float | None
    """Seconds, from now, of the block; negative: it has passed."""
    blocked_why: str
    claimed: bool
    """The probe is this process's to send."""


# One statement does it all, so that processes cannot interleave: settle what was used beyond the lease, refill the
# buckets by the database's clock, lease what is asked within budget and cap (negative: give back), publish or clear a
# block, and read the knobs. `held` locks the row first; `asked` reads the clock only after that.
_EXCHANGE = f"""
WITH held AS MATERIALIZED (
    SELECT * FROM embedtui.pace WHERE migration = %(migration)s FOR UPDATE
), asked AS MATERIALIZED (
    SELECT timed.*, greatest(0, extract(epoch FROM now - filled_at))::float8 AS seconds
    FROM (SELECT held.*, clock_timestamp() AS now FROM held OFFSET 0) AS timed
), filled AS MATERIALIZED (
    SELECT asked.*,
        least(CASE WHEN %(token_rate)s::float8 IS NOT NULL
                   THEN greatest(%(need)s, %(token_rate)s::float8 * %(burst)s / 60) END,
              token_level + seconds * %(token_rate)s::float8 / 60)
            - %(settle)s AS tokens_there,
        least(CASE WHEN %(request_rate)s::float8 IS NOT NULL
                   THEN greatest(1, %(request_rate)s::float8 * %(burst)s / 60) END,
              request_level + seconds * %(request_rate)s::float8 / 60) AS requests_there,
        CASE WHEN spend_cap IS NULL OR %(price)s::float8 = 0 THEN NULL
             -- without a price nothing may be spent
             ELSE greatest(0, coalesce(floor(spend_cap * 1e6 / %(price)s::float8) - spent_tokens - %(settle)s, 0)) END
            AS tokens_left
    FROM asked
), granted AS MATERIALIZED (
    SELECT filled.*,
        -- no greatest(0, NULL): that would be 0, and NULL means unlimited
        floor(least(%(tokens)s::float8, CASE WHEN tokens_there < 0 THEN 0 ELSE tokens_there END, tokens_left))
            AS tokens,
        floor(least(%(requests)s::float8, CASE WHEN requests_there < 0 THEN 0 ELSE requests_there END)) AS leases
    FROM filled
)
UPDATE embedtui.pace AS p SET
    token_level = CASE WHEN %(rejected)s > 0 THEN 0 ELSE coalesce(tokens_there - tokens, 0) END,
    request_level = CASE WHEN %(rejected)s > 0 THEN 0 ELSE coalesce(requests_there - leases, 0) END,
    filled_at = now,
    spent_tokens = {added("p.spent_tokens", "tokens::bigint + %(settle)s")},
    requests = {added("p.requests", "leases::bigint")},
    rejected = {added("p.rejected", "%(rejected)s")},
    concurrency = %(concurrency)s,
    characters_per_token = CASE WHEN %(ratio)s::float8 IS NULL THEN p.characters_per_token
        ELSE coalesce(CASE WHEN p.characters_per_token BETWEEN 0.01 AND 1000 THEN p.characters_per_token END * 0.7
                      + %(ratio)s::float8 * 0.3, %(ratio)s::float8) END,
    blocked_until = CASE
        WHEN %(block)s::float8 IS NOT NULL  -- a failed probe's block replaces its own claim
            THEN greatest(CASE WHEN NOT %(probed)s THEN p.blocked_until END,
                          now + make_interval(secs => %(block)s::float8))
        WHEN %(clear)s THEN NULL
        WHEN %(claim)s AND p.blocked_until <= now THEN now + make_interval(secs => %(probe)s::float8)
        ELSE p.blocked_until END,
    blocked_why = CASE
        WHEN %(block)s::float8 IS NOT NULL THEN %(why)s
        WHEN %(clear)s THEN ''
        ELSE p.blocked_why END
FROM granted AS g WHERE p.migration = g.migration
RETURNING tokens, leases, p.tokens_per_minute, p.requests_per_minute, p.max_concurrency, p.spend_cap, p.spent_tokens,
    p.requests, p.rejected,
    CASE WHEN p.characters_per_token BETWEEN 0.01 AND 1000 THEN p.characters_per_token END,
    CASE WHEN p.blocked_until IS NOT NULL THEN extract(epoch FROM
        greatest(least(p.blocked_until, now + interval '2 hours'), now - interval '2 hours') - now) END::float8,
    p.blocked_why,
    %(claim)s AND g.blocked_until <= now AS claimed
"""


def exchange(conn: Connection, migration_id: int, news: PaceNews) -> Pace | None:
    """Tell the row the news and lease from its buckets, in one statement; None where the row is gone."""
    row = conn.execute(_EXCHANGE, {"migration": migration_id, **asdict(news)}).fetchone()
    if row is None:
        return None
    tokens, leases, token_limit, request_limit, concurrency, cap, spent, requests, rejected, ratio, left, why, won = row
    return Pace(
        tokens=int(tokens),
        leases=int(leases),
        tokens_per_minute=_maybe(token_limit),
        requests_per_minute=_maybe(request_limit),
        max_concurrency=int(concurrency),
        spend_cap=_maybe(cap),
        spent_tokens=int(spent),
        requests=int(requests),
        rejected=int(rejected),
        characters_per_token=_maybe(ratio),
        blocked=_maybe(left),
        blocked_why=str(why),
        claimed=bool(won),
    )


def unblock(conn: Connection, migration_id: int) -> None:
    """End a backoff or a long Retry-After for all processes, at an operator's word; seen within a second."""
    conn.execute("UPDATE embedtui.pace SET blocked_until = NULL, blocked_why = '' WHERE migration = %s", [migration_id])


def _maybe(value: float | Decimal | None) -> float | None:
    return None if value is None else float(value)
