"""The route as applications read it: view ``route_side``."""

from __future__ import annotations

LOOK_UP = "SELECT * FROM embedtui.route_side"

LOOK_UP_TABLE = """
SELECT * FROM embedtui.route_side
WHERE name = coalesce((SELECT name FROM embedtui.route_side WHERE name = %(table)s LIMIT 1),
                      (SELECT name FROM embedtui.route_side WHERE table_oid = to_regclass(%(table)s) LIMIT 1))
"""
