"""The one choice between the two placements; each is a module of its own, ``column`` and ``side_table``."""

from __future__ import annotations

from embedtui.model import Migration, PlacementKind
from embedtui.postgres.sides.column import ColumnPlacement
from embedtui.postgres.sides.protocol import Placement
from embedtui.postgres.sides.side_table import TablePlacement


def make_placement(migration: Migration) -> Placement:
    """The placement of a migration."""
    return ColumnPlacement(migration) if migration.placement is PlacementKind.COLUMN else TablePlacement(migration)
