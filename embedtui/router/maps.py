"""The bridges' maps that a Router serves by, held whole and read where they are new."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import errors

from embedtui.model.bridge import LinearMap
from embedtui.postgres.state.bridges import load_map
from embedtui.redaction import redact


class Maps:
    """Used by the Router's thread; a version never changes."""

    def __init__(self) -> None:
        self._kept: dict[int, LinearMap] = {}
        self.error = ""
        """Why one that is served is not gone through."""

    def of(self, conn: psycopg.Connection[Any], rows: list[dict[str, Any]]) -> dict[int, LinearMap]:
        """The maps that these rows serve by, by version: never read while a search waits."""
        served = {row["bridge"]: row["vector_schema"] for row in rows if row.get("bridging")}
        kept = {}
        for bridge, schema in served.items():
            try:
                found = self._kept.get(bridge) or load_map(conn, bridge, schema)
            except (errors.InsufficientPrivilege, errors.UndefinedTable) as error:
                self.error = f"Not bridged: {redact(str(error.diag.message_primary))}."
                continue
            if found is not None:
                kept[bridge] = found
        if len(kept) == len(served):
            self.error = ""
        self._kept = kept
        return kept
