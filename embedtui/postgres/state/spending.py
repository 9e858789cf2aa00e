"""What a migration took of its models beside the backfill: columns of table ``migration``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Literal

from psycopg import errors

from embedtui.model import Side
from embedtui.postgres.connect import Connection
from embedtui.postgres.state.counters import added

Counter = Literal["old_tokens", "asked_new", "asked_old", "proof_tokens"]
ASKED: Mapping[Side, Counter] = {Side.OLD: "asked_old", Side.NEW: "asked_new"}


def add_tokens(conn: Connection, migration_id: int, counter: Counter, tokens: int) -> None:
    """Count tokens; not where this role may not, or the database only reads: no count is worth the work."""
    if not tokens:
        return
    denied = (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)
    with contextlib.suppress(*denied), conn.transaction():
        conn.execute(
            f"UPDATE embedtui.migration SET {counter} = {added(counter)} WHERE id = %s",
            [tokens, migration_id],
        )
