"""Recorded evaluations: table ``evaluation``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from embedtui.model import Key
from embedtui.postgres.connect import Connection

_COUNTS = (
    "(role = current_user OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role"
    " AND pg_catalog.pg_has_role(r.oid, (SELECT relowner FROM pg_catalog.pg_class"
    " WHERE oid = 'embedtui.evaluation'::regclass), 'MEMBER')))"
)
"""SQL: one's own, or an operator's; a verdict that a worker's role wrote is evidence to nobody else."""


@dataclass(frozen=True, slots=True)
class NewEvaluation:
    """An evaluation to record; the mappings are kept as JSON."""

    migration: int
    who: str
    k: int
    queries: int
    measures: Mapping[str, Any]
    """Figures and rankings."""
    checks: Sequence[Mapping[str, Any]]
    verdict: str
    state: Mapping[str, Any]
    """What it saw, and a summary: apart from the rankings, so that a snapshot need not unpack them."""


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """An evaluation as recorded."""

    id: int
    at: datetime
    k: int
    measures: Mapping[str, Any]
    checks: Sequence[Mapping[str, Any]]
    verdict: str
    seen: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """What a snapshot shows of an evaluation."""

    id: int
    at: datetime
    queries: int
    verdict: str
    summary: Mapping[str, Any]
    seen: Mapping[str, Any]
    judged_by: Mapping[str, Any] | None
    """Thresholds of the gate; None where an earlier version recorded none."""
    checks: Sequence[Mapping[str, Any]]


def add_evaluation(conn: Connection, evaluation: NewEvaluation) -> tuple[int, datetime]:
    """Append an evaluation; its id and time."""
    row = conn.execute(
        "INSERT INTO embedtui.evaluation (migration, who, k, queries, measures, checks, verdict, state)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING id, at",
        [
            evaluation.migration,
            evaluation.who,
            evaluation.k,
            evaluation.queries,
            Jsonb(evaluation.measures),
            Jsonb(evaluation.checks),
            evaluation.verdict,
            Jsonb(evaluation.state),
        ],
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def newest_evaluation(
    conn: Connection, migration_id: int, *, digest: int | None = None, request: str | None = None
) -> StoredEvaluation | None:
    """The newest evaluation; with a ``digest`` only of those that saw it and were asked ``request``."""
    row = conn.execute(
        "SELECT id, at, k, measures, checks, verdict, state->'seen' FROM embedtui.evaluation"
        f" WHERE migration = %(m)s AND {_COUNTS}"
        " AND (%(digest)s::text IS NULL OR"
        " (state->'seen'->>'digest' = %(digest)s AND state->'seen'->>'request' = %(request)s))"
        " ORDER BY id DESC LIMIT 1",
        {"m": migration_id, "digest": None if digest is None else str(digest), "request": request},
    ).fetchone()
    return None if row is None else StoredEvaluation(*row)


def newest_summary(conn: Connection, migration_id: int) -> EvaluationSummary | None:
    """The newest evaluation without its rankings."""
    row = conn.execute(
        "SELECT id, at, queries, verdict, state->'summary', state->'seen', state->'judged_by', checks"
        f" FROM embedtui.evaluation WHERE migration = %s AND {_COUNTS} ORDER BY id DESC LIMIT 1",
        [migration_id],
    ).fetchone()
    return None if row is None else EvaluationSummary(*row)


def read_judged_rows(conn: Connection, migration_id: int) -> dict[Key, tuple[int, int]]:
    """Judged rows as they were when a comparison first counted their judgments: fingerprint, and of which judgments."""
    row = conn.execute(
        "SELECT state->'judged_rows' FROM embedtui.evaluation WHERE migration = %s AND state ? 'judged_rows'"
        f" AND {_COUNTS} ORDER BY id DESC LIMIT 1",
        [migration_id],
    ).fetchone()
    return {tuple(key): (fingerprint, judgments) for key, fingerprint, judgments in row[0]} if row else {}


def read_verdicts_counted(conn: Connection, evaluation: int) -> str | None:
    """Where the operators' verdicts stood when an evaluation counted them; None where that is not known."""
    row = conn.execute(
        "SELECT state->'summary'->>'verdicts' FROM embedtui.evaluation WHERE id = %s", [evaluation]
    ).fetchone()
    return None if row is None else row[0]


def read_judged_by(conn: Connection, evaluation: int) -> Mapping[str, Any] | None:
    """The thresholds that an evaluation was judged by; None where that is not known."""
    row = conn.execute("SELECT state->'judged_by' FROM embedtui.evaluation WHERE id = %s", [evaluation]).fetchone()
    return None if row is None else row[0]
