"""The new side's index as it is now, building or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from embedtui.model import IndexMethod, IndexStatus, Migration
from embedtui.postgres.connect import Connection
from embedtui.postgres.ddl import session
from embedtui.postgres.indexes.existing import ExistingIndex, indexes_of, ours, tree_of
from embedtui.postgres.sides.layout import new_side

_PROGRESS = """
SELECT pid, index_relid::int8, phase, blocks_done, blocks_total, lockers_done, lockers_total, current_locker_pid
FROM pg_catalog.pg_stat_progress_create_index
WHERE relid = ANY (%s::int8[]::oid[]) AND command LIKE 'CREATE INDEX%%'
  AND (index_relid = 0 OR index_relid = ANY (%s::int8[]::oid[]))
ORDER BY pid LIMIT 1
"""


def several(indexes: Sequence[ExistingIndex]) -> str:
    """The name of the first, and how many more there are."""
    if len(indexes) < 2:
        return indexes[0].name if indexes else ""
    return f"{indexes[0].name} and {len(indexes) - 1:,} more"


def index_status(conn: Connection, migration: Migration) -> IndexStatus:
    """The index as it is now, building or not; a few catalog reads, fit for every snapshot."""
    side = new_side(migration)
    tree = tree_of(conn, side.table)
    existing = indexes_of(conn, [part.oid for part in tree], side.embedding)
    found = ours(tree, existing)
    whole = [index for index in found if not index.partial][:1]
    needed = [*whole, *(index for index in found if index.partial)]
    status = IndexStatus(
        name=several(needed),
        method=IndexMethod(needed[0].method) if needed else migration.index_method,
        exists=bool(needed),
        valid=bool(needed) and all(index.valid for index in needed),
    )
    names = {index.oid: index.name for found in existing.values() for index in found}
    row = conn.execute(_PROGRESS, (list(existing), list(names))).fetchone()
    if row is None:
        return status
    _, oid, phase, blocks_done, blocks_total, lockers_done, lockers_total, locker = row
    leaves = [part for part in tree if part.leaf]
    if len(needed) > 1 and phase:
        ready = sum(index.valid for index in needed)
        phase = f"{names.get(oid, 'the next one')}, {ready} ready: {phase}"
    elif len(leaves) > 1 and phase:
        ready = sum(any(index.valid for index in existing[part.oid]) for part in leaves)
        phase = f"partition {min(ready + 1, len(leaves))} of {len(leaves)}: {phase}"
    waiting = ""
    if locker:
        waiting = str(session(conn, locker))
        if lockers_total > 1:
            waiting += f" ({lockers_done + 1} of {lockers_total})"
    return replace(
        status,
        phase=phase or "building",
        done=min(blocks_done, blocks_total) if blocks_total else None,
        total=blocks_total or None,
        waiting_for=waiting,
    )
