"""Partitions that come later: what is attached brings rows that no trigger told of, also after the backfill."""

from __future__ import annotations

from embedtui.engine.prepare import count_total
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.protocol import Placement
from embedtui.postgres.state.partitions import remember_partitions, unseen_partitions
from embedtui.postgres.state.queue import queue_keys

LIMIT = 5_000
"""Rows that are queued at a time."""


def queue_unseen(conn: Connection, placement: Placement) -> int:
    """Queue rows of new partitions that lack a current new vector, up to ``LIMIT``; how many.

    Once none is left the partitions are remembered. Costs nothing where there is no new one, else a scan of the table.
    """
    migration = placement.migration
    attached = unseen_partitions(conn, migration)
    if not attached:
        return 0
    keys = placement.sweep(conn, LIMIT)
    queue_keys(conn, migration.id, keys)
    if len(keys) < LIMIT:
        remember_partitions(conn, migration, attached)
        count_total(conn, migration)
    return len(keys)
