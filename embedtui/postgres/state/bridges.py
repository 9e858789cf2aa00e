"""Maps from the new model's vectors to the old one's, by version: tables ``bridge`` and ``bridge_row``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from embedtui.arrays import np
from embedtui.errors import Refused
from embedtui.model import Migration
from embedtui.model.bridge import BridgeFit, BridgeStatus, LinearMap, from_data
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.sampling import Drawn
from embedtui.postgres.state.pointer import CHANNEL
from embedtui.postgres.state.shards import COLUMNS, OF_TABLE, PLACED, shard_of

PART = 1_950
"""Numbers of a row's part: with more, a page would not hold it."""
KEPT = 3
"""Versions whose matrix is kept beside the one that serves."""

_ROWS = """
SELECT position, first, shift, {send}(weights) FROM embedtui.bridge_row
WHERE bridge OPERATOR(pg_catalog.=) %s ORDER BY position, first
"""


def store_figures(conn: Connection, migration: Migration, status: BridgeStatus) -> int:
    """Keep what was found of a map without the map; its id."""
    row = conn.execute(
        "INSERT INTO embedtui.bridge (migration, figures) VALUES (%s, %s) RETURNING id",
        [migration.id, Jsonb(asdict(status))],
    ).fetchone()
    assert row is not None
    return int(row[0])


def newest_fit(conn: Connection, migration_id: int) -> BridgeFit | None:
    """The map fitted last, kept or not; None where none was."""
    row = conn.execute(
        "SELECT id, at, figures FROM embedtui.bridge WHERE migration = %s ORDER BY id DESC LIMIT 1",
        [migration_id],
    ).fetchone()
    return None if row is None else BridgeFit(row[0], row[1], from_data(row[2]))


def store_bridge(conn: Connection, migration: Migration, found: LinearMap, status: BridgeStatus) -> int:
    """Store a map as a new version, and drop the matrices of old ones; its id. Part of the caller's transaction."""
    number = store_figures(conn, migration, status)
    copy = sql.SQL("COPY embedtui.bridge_row (bridge, position, first, shift, weights) FROM STDIN")
    with conn.cursor().copy(copy) as rows:
        for position, (weights, shift) in enumerate(zip(found.matrix, found.offset, strict=True), 1):
            for first in range(0, len(weights), PART):
                part = weights[first : first + PART]
                text = f"[{','.join(map(repr, part.tolist()))}]"
                rows.write_row((number, position, first + 1, 0.0 if first else float(shift), text))
    conn.execute(
        "DELETE FROM embedtui.bridge_row WHERE bridge IN (SELECT id FROM embedtui.bridge b WHERE migration = %(m)s"
        " AND NOT EXISTS (SELECT FROM embedtui.route r WHERE r.bridge = b.id)"
        " AND EXISTS (SELECT FROM embedtui.bridge_row w WHERE w.bridge = b.id) ORDER BY id DESC OFFSET %(kept)s)",
        {"m": migration.id, "kept": KEPT},
    )
    return number


def store_sample(conn: Connection, migration: Migration, drawn: Sequence[Drawn], first: int) -> None:
    """Keep rows that were drawn, after the ``first`` that are kept already. Part of the caller's transaction."""
    copy = "COPY embedtui.bridge_sample (migration, number, shard, page, key) FROM STDIN"
    with conn.cursor().copy(copy) as rows:
        for number, each in enumerate(drawn, first):
            rows.write_row((migration.id, number, each.shard.id, each.page, list(each.key)))


def read_sample(conn: Connection, migration: Migration) -> list[Drawn]:
    """Rows that were drawn before, in their order."""
    rows = conn.execute(
        f"SELECT b.page, b.key, {COLUMNS} FROM embedtui.bridge_sample b, {PLACED}"
        f" WHERE s.id = b.shard AND b.migration = %(migration)s AND {OF_TABLE} ORDER BY b.number",
        {"migration": migration.id, "table": migration.table_oid},
    )
    return [Drawn(shard_of(*shard), page, tuple(key)) for page, key, *shard in rows]


def load_status(conn: Connection, bridge: int) -> BridgeStatus:
    """What was found of a version when it was fitted."""
    row = conn.execute("SELECT figures FROM embedtui.bridge WHERE id = %s", [bridge]).fetchone()
    assert row is not None
    return from_data(row[0])


def load_map(conn: psycopg.Connection[Any], bridge: int, vector_schema: str) -> LinearMap | None:
    """The map of this version, whole; None where its matrix is no longer kept. The service's own session will do."""
    send = sql.Identifier(vector_schema, "vector_send")
    parts: dict[int, list[Any]] = {}
    shifts: dict[int, float] = {}
    for position, _first, shift, raw in conn.execute(sql.SQL(_ROWS).format(send=send), [bridge], binary=True):
        parts.setdefault(position, []).append(np.frombuffer(raw, ">f4", offset=4))
        shifts[position] = shifts.get(position, 0.0) + shift
    if not parts:
        return None
    matrix = np.stack([np.concatenate(row) for row in parts.values()]).astype(np.float32)
    return LinearMap(matrix, np.asarray(list(shifts.values()), np.float32))


def move_bridge(
    conn: Connection, migration: Migration, *, expect_epoch: int, bridge: int | None, who: str, host: str
) -> int:
    """Serve the old side through this map, or (None) no longer through one; the pointer's new epoch.

    While the new side serves, so would a rollback. A move of the pointer: by compare-and-set on its epoch, and told to
    every listener.

    Raises:
        Refused: the pointer was moved since ``expect_epoch``, or the migration is being ended.
    """
    row = conn.execute(
        "WITH moved AS (UPDATE embedtui.route SET epoch = epoch + 1,"
        # while the new side serves, its soak goes on
        " changed_at = CASE active WHEN 'old' THEN clock_timestamp() ELSE changed_at END,"
        " changed_by = %(by)s, bridge = coalesce(%(bridge)s, bridge), bridging = %(bridge)s::integer IS NOT NULL"
        " WHERE name = %(name)s AND migration = %(migration)s AND epoch = %(expect)s"
        " AND ending IS NULL RETURNING name, epoch)"
        # no more than the name: listeners have to read the map
        " SELECT epoch, pg_notify(%(channel)s, json_build_object('name', name)::text) FROM moved",
        {
            "by": f"{who}@{host}",
            "bridge": bridge,
            "name": migration.name,
            "migration": migration.id,
            "expect": expect_epoch,
            "channel": CHANNEL,
        },
    ).fetchone()
    if row is None:
        raise Refused("The pointer was moved meanwhile, or the old side is being taken away.", hint="Look again.")
    return int(row[0])
