"""Services that follow the route through the routed view, not by the Router's search, for ``benchmarks/flip.py``."""

from __future__ import annotations

import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import psycopg
from psycopg.conninfo import conninfo_to_dict

from embedtui.integrations import Routing
from embedtui.model import Side
from embedtui.postgres.connect import connect
from embedtui.postgres.state import pointer
from embedtui.router import Router

NAME, VIEW = "searched", "searched_v2"
KINDS = ("Router", "SQLAlchemy", "view")
VIEW_FACTOR = 1.05
"""A search through the view takes at most so many times the table's."""

Queries = dict[Side, list[str]]


@dataclass
class Followed:
    """What one service saw."""

    kind: str
    seen: dict[int, float] = field(default_factory=dict)
    """Epoch to time.monotonic() when the first search by it was sent."""
    checkouts: list[float] = field(default_factory=list)
    """Seconds from asking for a connection until it was on the route's side, where it had to be moved there."""
    searches: int = 0
    wrong: int = 0
    failed: list[str] = field(default_factory=list)


def serve(dsn: str, load: int, queries: Queries, ready: Event, stop: Event, answers: Any) -> None:
    """A service of ``load`` threads of each kind, which share interpreter and Router; answers with what each saw."""
    lock = threading.Lock()
    with Router(dsn, application_name="following") as router:
        routing = Routing(router, NAME)
        found = {kind: Followed(kind) for kind in KINDS}
        searches = {kind: _SEARCHES[kind](dsn, routing, load) for kind in KINDS}

        def work(kind: str) -> None:
            mine, (search, _) = found[kind], searches[kind]
            try:
                while not stop.is_set():
                    with routing.use() as chosen:
                        distances, at, checkout = search(random.choice(queries[chosen.side]))
                    with lock:
                        mine.seen.setdefault(chosen.epoch, at)
                        mine.checkouts += [checkout] if checkout is not None else []
                        mine.searches += 1
                        mine.wrong += len(distances) != 10 or max(distances) > 1.0
            except Exception as error:
                mine.failed.append(repr(error))

        threads = [threading.Thread(target=work, args=[kind]) for kind in KINDS for _ in range(load)]
        for thread in threads:
            thread.start()
        ready.set()
        for thread in threads:
            thread.join()
        for _, close in searches.values():
            close()
    answers.put(found)


Answer = tuple[Sequence[float], float, float | None]
"""Distances of ten hits; time.monotonic() when the search was sent; the seconds of the check-out, None for a connection
that was on the route's side."""
Search = Callable[[str], Answer]


def _by_router(dsn: str, routing: Routing, _load: int) -> tuple[Search, Callable[[], None]]:
    local, opened = threading.local(), []

    def search(vector: str) -> Answer:
        if not hasattr(local, "conn"):
            local.conn = psycopg.connect(dsn, autocommit=True)
            opened.append(local.conn)
        at = time.monotonic()
        return [hit.distance for hit in routing.route.search(local.conn, vector, 10)], at, None  # type: ignore[union-attr]

    return search, lambda: [conn.close() for conn in opened] and None


def _by_sqlalchemy(dsn: str, routing: Routing, load: int) -> tuple[Search, Callable[[], None]]:
    from sqlalchemy import create_engine, event, text

    from embedtui.integrations.sqlalchemy import follow

    info = conninfo_to_dict(dsn)
    place = f"host={info['host']}" + (f"&port={info['port']}" if "port" in info else "")
    engine = create_engine(
        f"postgresql+psycopg://{info.get('user', 'postgres')}@/{info['dbname']}?{place}",
        pool_size=load,
        isolation_level="AUTOCOMMIT",
    )
    local = threading.local()
    follow(engine, routing)
    # after the one that moves the connection
    event.listen(engine, "before_cursor_execute", lambda *_: setattr(local, "moved", time.monotonic()))
    query = text(f"SELECT id, embedding <=> CAST(CAST(:v AS text) AS vector) AS d FROM {NAME} ORDER BY d LIMIT 10")

    def search(vector: str) -> Answer:
        began = time.monotonic()
        with engine.connect() as conn:
            rows = conn.execute(query, {"v": vector}).all()
        return [row.d for row in rows], local.moved, local.moved - began

    return search, engine.dispose


def _by_view(dsn: str, routing: Routing, _load: int) -> tuple[Search, Callable[[], None]]:
    local, opened = threading.local(), []
    query = f"SELECT id, embedding <=> %s AS d FROM {NAME} ORDER BY d LIMIT 10"

    def search(vector: str) -> Answer:
        began = time.monotonic()
        if not hasattr(local, "conn"):
            local.conn = psycopg.connect(dsn, autocommit=True)
            opened.append(local.conn)
        path, checkout = routing.search_path("public"), None
        if getattr(local, "path", None) != path:
            local.conn.execute(f"SET search_path = {path}")
            local.path = path
            checkout = time.monotonic() - began
        at = time.monotonic()
        return [d for _, d in local.conn.execute(routing.tagged(query), [vector])], at, checkout

    return search, lambda: [conn.close() for conn in opened] and None


_SEARCHES = {"Router": _by_router, "SQLAlchemy": _by_sqlalchemy, "view": _by_view}


def measure_following(dsn: str, load: int, flips: int, queries: Queries) -> dict[str, Any]:
    """The same flips under searchers of each kind at once: ms until the first search by the new route is sent."""
    context = multiprocessing.get_context("spawn")
    stop, ready, answers = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=serve, args=(dsn, load, queries, ready, stop, answers))
    process.start()
    ready.wait(60)
    time.sleep(1.0)
    began: dict[int, float] = {}
    with connect(dsn, name="flip") as conn:
        side = pointer.read_route(conn, NAME).active
        for _ in range(flips):
            side = side.other
            start = time.monotonic()
            share = 100 if side is Side.NEW else 0
            flip = pointer.move_route(
                conn, NAME, expect_epoch=None, active=side, canary=share, who="bench", host="here"
            )
            began[flip.epoch] = start
            time.sleep(random.uniform(0.15, 0.3))
    time.sleep(0.5)
    stop.set()
    found: dict[str, Followed] = answers.get(timeout=60)
    process.join(60)
    result: dict[str, Any] = {"load": load, "flips": flips}
    for kind in KINDS:
        report = found[kind]
        reach = sorted(
            (min(at for seen, at in report.seen.items() if seen >= epoch) - start) * 1000
            for epoch, start in began.items()
        )
        result[kind] = {
            "p50_ms": round(statistics.median(reach), 1),
            "p99_ms": round(_p99(reach), 1),
            "checkout_p99_ms": round(_p99(sorted(report.checkouts) or [0.0]) * 1000, 1),
            "searches": report.searches,
            "wrong_side": report.wrong,
            "failed": report.failed,
        }
    return result


def _p99(ordered: Sequence[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def measure_view(dsn: str, queries: Queries, searches: int) -> dict[str, float]:
    """Medians (ms) of a search of the table's new column and of the same through the view, in turn."""
    taken: dict[str, list[float]] = {"table": [], "view": []}
    with psycopg.connect(dsn, autocommit=True) as table, psycopg.connect(dsn, autocommit=True) as view:
        view.execute(f"SET search_path = {VIEW}, public")
        asked = {
            "table": (table, f"SELECT id, embedding_v2 <=> %s AS d FROM {NAME} ORDER BY d LIMIT 10"),
            "view": (view, f"SELECT id, embedding <=> %s AS d FROM {NAME} ORDER BY d LIMIT 10"),
        }
        for turn in range(searches + 20):
            vector = queries[Side.NEW][turn % len(queries[Side.NEW])]
            found = {}
            for what in random.sample(("table", "view"), 2):
                conn, query = asked[what]
                start = time.perf_counter()
                found[what] = conn.execute(query, [vector]).fetchall()
                if turn >= 20:  # prepared by then
                    taken[what].append((time.perf_counter() - start) * 1000)
            assert found["table"] == found["view"]
    medians = {what: round(float(np.median(times)), 3) for what, times in taken.items()}
    return {**medians, "factor": round(medians["view"] / medians["table"], 3)}
