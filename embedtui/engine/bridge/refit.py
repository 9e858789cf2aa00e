"""The bridge that serves, fitted again as the backfill brings more pairs."""

from __future__ import annotations

import threading
from dataclasses import replace

import psycopg

from embedtui.engine.backfill.job import Job
from embedtui.engine.bridge.checks import LEAST_ROWS
from embedtui.engine.bridge.drawing import MOST_ROWS, Drawing
from embedtui.engine.bridge.fit import Fitted, fit, is_better
from embedtui.engine.bridge.queries import SEARCH_MS, query_figures
from embedtui.errors import EmbedtuiError, Interrupted
from embedtui.formatting import percent
from embedtui.model.bridge import BridgeQueries, BridgeStatus, in_full, in_words
from embedtui.postgres.connect import Connection, host_name, operator_name
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.bridges import move_bridge, store_bridge
from embedtui.postgres.state.pointer import may_move_route, read_status
from embedtui.postgres.state.progress import read_progress

CHECK_SECONDS = 15.0
MORE = 2.0
"""Times as many pairs as before are worth a fit: what fewer add is within the figures' intervals."""


class Refit:
    """Watches how many pairs there are, beside the backfill; no search ever waits for it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lock = threading.Lock()
        """Of one look at a time."""
        self._tried = 0
        """Pairs that were there the last time, whatever came of it."""

    def keep_up(self) -> None:
        """Look now and then until the job is stopped; what fails is said, and tried again."""
        while not self._job.stop.wait(CHECK_SECONDS):
            self.look()

    def look(self) -> None:
        """Fit again where there are enough more pairs, and have that serve where it is better."""
        with self._lock:
            drawing = Drawing(self._job)
            try:
                self._look(drawing)
            except Interrupted:
                pass
            except (EmbedtuiError, psycopg.Error) as error:
                self._job.note(f"The bridge was not fitted again: {error}")
            finally:
                drawing.close()

    def _look(self, drawing: Drawing) -> None:
        before = drawing.database(self._served)
        if before is None:
            return
        version, known = before
        first, enough = known.rows, MORE * max(known.rows, self._tried)
        if first < LEAST_ROWS or drawing.count(MOST_ROWS) < enough:
            return
        pairs, migration = drawing.pairs(MOST_ROWS), self._job.migration
        count = len(pairs.new)
        if count < enough:
            return
        self._tried = count
        found = fit(pairs.new, pairs.old, migration.distance, first=first, seed=migration.id, note=self._require_time)
        if not is_better(found.status) or (found.status.refused and not known.refused):
            self._job.note(f"The bridge, fitted again on {count:,} rows, is no better: the one that serves stays.")
            return
        found = replace(found, status=replace(found.status, queries=self._by_queries(found)))
        if drawing.database(lambda conn: self._serve(conn, version, known, found)):
            self._job.note(f"The bridge was fitted again on {count:,} rows, {first:,} before: {in_words(found.status)}")

    def _by_queries(self, found: Fitted) -> BridgeQueries | None:
        """How the queries fare that the map in force was measured by; pays for nothing."""
        link, job = self._job.link("bridge", statement_timeout_ms=SEARCH_MS), self._job
        try:
            return job.with_database(
                link, lambda conn: query_figures(conn, job.migration, found.map, None, job.stop, job.note)
            )
        finally:
            link.drop()

    def _require_time(self, doing: str) -> None:
        """Between two steps of a fit: nobody who stops the job waits for all of them."""
        del doing
        if self._job.stop.is_set():
            raise Interrupted("Stopped.")

    def _served(self, conn: Connection) -> tuple[int, BridgeStatus] | None:
        """The map in force and its figures, where this role may replace it and the backfill has brought enough rows."""
        status = read_status(conn, self._job.migration)
        if not status.bridging or status.bridge is None or status.bridge_found is None or not may_move_route(conn):
            return None
        enough = read_progress(conn, self._job.migration.id).rows >= MORE * max(status.bridge_found.rows, self._tried)
        return (status.bridge, status.bridge_found) if enough else None

    def _serve(self, conn: Connection, version: int, known: BridgeStatus, found: Fitted) -> bool:
        """Have the new map serve in the place of ``version``; False where that no longer serves."""
        migration = self._job.migration
        with conn.transaction():
            new = store_bridge(conn, migration, found.map, found.status)
        with conn.transaction():
            status = read_status(conn, migration)
            if not status.bridging or status.bridge != version or status.ending is not None:
                return False
            who, host = operator_name(), host_name()
            move_bridge(conn, migration, expect_epoch=status.epoch, bridge=new, who=who, host=host)
            was, now = found.status.curve[0].figures, found.status.figures
            detail = (
                f"fitted again on {found.status.rows:,} rows, version {new} for {version}: {in_full(found.status)}."
                f" Before: {in_words(known)}. By the same held-out rows: {percent(now.overlap_10.mean)} of their old"
                f" neighbours, {percent(was.overlap_10.mean)} before; {percent(now.recall_10.mean)} find themselves,"
                f" {percent(was.recall_10.mean)} before"
            )
            add_audit(conn, migration.id, "bridge", detail)
        return True
