"""Who did what, when and from where: table ``audit``, append-only."""

from __future__ import annotations

from embedtui.model import AuditEntry
from embedtui.postgres.connect import Connection, host_name, operator_name, redact


def add_audit(conn: Connection, migration_id: int | None, act: str, detail: str = "") -> None:
    """Append a line to the audit log; secrets are redacted."""
    conn.execute(
        "INSERT INTO embedtui.audit (migration, who, host, act, detail) VALUES (%s, %s, %s, %s, %s)",
        [migration_id, operator_name(), host_name(), act, redact(detail)],
    )


def read_audit(conn: Connection, migration_id: int | None, limit: int = 200) -> tuple[AuditEntry, ...]:
    """Newest first."""
    rows = conn.execute(
        "SELECT at, who, host, act, detail FROM embedtui.audit"
        " WHERE %(m)s::int IS NULL OR migration = %(m)s OR migration IS NULL ORDER BY id DESC LIMIT %(n)s",
        {"m": migration_id, "n": limit},
    )
    return tuple(AuditEntry(*row) for row in rows)
