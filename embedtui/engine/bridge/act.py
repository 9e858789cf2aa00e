"""Bridge on and off: a sample embedded, a map fitted, measured and stored, and searches sent through it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from types import MappingProxyType

from embedtui.engine.access import Access
from embedtui.engine.backfill.job import Job, now
from embedtui.engine.bridge.blockers import bridge_blockers
from embedtui.engine.bridge.fit import Fitted, fit
from embedtui.engine.bridge.queries import SEARCH_MS, query_figures
from embedtui.engine.bridge.sampling import Sampler, sample_size
from embedtui.engine.overrides import Overrides, audited, pass_blockers, refuse
from embedtui.engine.running import Runner
from embedtui.engine.validate.queries import store as keep_queries
from embedtui.errors import Refused
from embedtui.model import Blocker, Command, Migration, QueryInput, RouteFlipped, Side
from embedtui.model.bridge import DOING, BridgeReport, LinearMap, in_full, in_words
from embedtui.model.lifecycle import as_stored, refusal
from embedtui.postgres.connect import Connection, host_name, operator_name
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.bridges import move_bridge, store_bridge, store_figures
from embedtui.postgres.state.pointer import read_route, read_status
from embedtui.providers import make_embedder

_STORE_MS = 600_000
"""A matrix has millions of numbers, and the way to the database may be long."""


def bridge(
    at: Access,
    *,
    rows: int | None = None,
    serve: bool = True,
    override: Overrides = MappingProxyType({}),
    queries: Sequence[QueryInput] = (),
    stop: threading.Event | None = None,
) -> BridgeReport:
    """See :meth:`embedtui.engine.Engine.bridge`."""
    began = time.monotonic()
    stop = stop or threading.Event()
    runner = Runner(at)
    migration = runner.start(stop)
    if serve:
        old = at.ask_old_model(migration)
        passed = at.write(lambda conn: pass_blockers(bridge_blockers(conn, migration, old), _known(override)))
    epoch = at.read(lambda conn: read_route(conn, migration.name)).epoch
    if queries:
        at.write(lambda conn: keep_queries(conn, migration, queries, "bridge"))
    with runner.at_work(migration, stop, f"{DOING}drawing the sample") as job:
        found, embedded = _fitted(at, job, rows)
    refused = found.status.refused
    if not serve or (refused and not override.get("bound", "").strip()):
        # what was found is for every screen, also where it serves nobody
        at.write(lambda conn: store_figures(conn, migration, found.status))
    if not serve:
        return BridgeReport(found.status, False, None, None, embedded, time.monotonic() - began)
    if refused:
        bound = Blocker("bound", refused, "Embed more rows (--rows), or give a reason.", True)
        passed |= pass_blockers([bound], override)
    with at.open("bridge", statement_timeout_ms=_STORE_MS) as conn:
        version = _store(conn, migration, found)
    epoch = at.write(lambda conn: _serve(conn, migration, epoch, version, passed), name="flip")
    route = at.read(lambda conn: read_route(conn, migration.name))
    serves = "serves" if route.active is Side.OLD else "would serve after a rollback"
    text = f"The old side {serves} through the bridge: {in_words(found.status)}"
    at.emit(RouteFlipped(now(), text, route.active, route.canary, epoch, 0.0))
    return BridgeReport(found.status, True, version, epoch, embedded, time.monotonic() - began)


def _fitted(at: Access, job: Job, rows: int | None) -> tuple[Fitted, int]:
    """The map, measured, and how many rows were embedded for it."""
    migration = job.migration
    sampler = Sampler(job, at.environ, at.note)
    try:
        pairs = sampler.run(sample_size(migration, rows))
    finally:
        sampler.close()
    job.doing(f"{DOING}fitting")
    found = fit(pairs.new, pairs.old, migration.distance, others=pairs.others, seed=migration.id, note=at.note)
    job.doing(f"{DOING}searching for the kept queries")
    with (
        at.open("bridge", statement_timeout_ms=SEARCH_MS) as conn,
        closing(make_embedder(migration.new_model, environ=at.environ)) as embedder,
    ):
        asked = query_figures(conn, migration, found.map, embedder, job.stop, at.note)
    return replace(found, status=replace(found.status, queries=asked)), pairs.embedded


def bridge_off(at: Access) -> int:
    """See :meth:`embedtui.engine.Engine.bridge_off`."""
    migration = at.require()

    def work(conn: Connection) -> int:
        with conn.transaction():
            route = read_route(conn, migration.name)
            if not read_status(conn, migration).bridging:
                return route.epoch
            epoch = move_bridge(
                conn, migration, expect_epoch=route.epoch, bridge=None, who=operator_name(), host=host_name()
            )
            add_audit(conn, migration.id, "bridge", "off: searches of the old side take the old model's vectors")
            return epoch

    return at.write(work, name="flip")


def _known(override: Overrides) -> Mapping[str, str]:
    """The overrides that can be given before the fit is known."""
    return {token: reason for token, reason in override.items() if token != "bound"}


def _store(conn: Connection, migration: Migration, found: Fitted) -> int:
    status, fitted = found.status, found.map
    require_shape(migration, fitted)
    with conn.transaction():
        version = store_bridge(conn, migration, fitted, status)
        kind = status.kind + (f" {status.parameter:g}" if status.parameter is not None else "")
        detail = f"version {version} fitted on {status.rows:,} rows ({kind}): {in_full(status)}"
        add_audit(conn, migration.id, "bridge", detail)
    return version


def require_shape(migration: Migration, found: LinearMap) -> None:
    """Nothing where a map goes from the new model's dimensions to the old one's.

    Raises:
        Refused: it does not, or holds numbers that are none.
    """
    wanted = (migration.old_model.dimensions, migration.new_model.dimensions)
    if found.matrix.shape != wanted or not (abs(found.matrix).max() < 1e30 and abs(found.offset).max() < 1e30):
        raise Refused("The map that was found is not one between these models' vectors.", hint="Run it again.")


def _serve(conn: Connection, migration: Migration, epoch: int, version: int, passed: Mapping[str, str]) -> int:
    refuse(refusal(Command.BRIDGE, as_stored(migration, read_status(conn, migration))))
    with conn.transaction():
        moved = move_bridge(conn, migration, expect_epoch=epoch, bridge=version, who=operator_name(), host=host_name())
        detail = f"on, version {version}: searches of the old side take {migration.new_model.name}'s vectors"
        add_audit(conn, migration.id, "bridge", detail + audited(dict(passed)))
    return moved
