"""Every number on the screens, in each state of a real migration, against SQL of this test's own.

The statements here read the tables as anybody with psql would; nothing of the engine counts for them. A number that is
on a screen and in no fact is a failure: either the screen says what is not so, or a fact is missing here.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from textual.pilot import Pilot

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine import Engine
from embedtui.errors import EmbedtuiError
from embedtui.model import Snapshot
from embedtui.tui.app import Dashboard
from embedtui.tui.searches import SearchMeter
from tests.kits.support import OLD, make_documents, settings_for
from tests.tui.conftest import picture, until

ROWS, BLANK, WITHOUT_OLD = 300, 4, 6
PRICE = 900.0
"""Dollars for a million tokens: dear, so that every digit of the spend is seen."""

SCREENS = ("overview", "cutover", "compare", "faults", "workers")
NUMBER = re.compile(r"(?<![\w.:#–-])\$?\d[\d,]*(?:\.\d+)?[kM]?(?: %)?(?![\w:–])")
IDLE = re.compile(
    # times, ages, places, names that end in digits, and the screens' own words about keys
    r"\d\d\.\d\d\. \d\d:\d\d|\d\d:\d\d:\d\d|~\$[\d.,]+|\d+ (?:ms|s|m|h|d)\b|\d+\.\d+ ms|top \d+|top-\d+|@\d+|F\d+"
    r"|\w+_v?\d\w*|vector\(\d+\)"
    r"|\d+–\d+ +%|[\w.-]+:\d{2,}|\b\d (?:Overview|Compare|Cutover|Faults|Workers|Log|Plan)\b"
)


class Truth:
    """What the database holds, by SQL that knows no engine."""

    def __init__(self, dsn: str, api: LoopbackServer) -> None:
        self._conn = psycopg.connect(dsn, autocommit=True)
        self._api = api
        self.edited = 0
        """Rows that this test edited since the newest comparison."""
        self._texts: set[str] = set()
        """Of all rows that there ever were: what is paid for stays paid when a row goes."""

    def close(self) -> None:
        self._conn.close()

    def one(self, query: str) -> Any:
        row = self._conn.execute(query).fetchone()
        assert row is not None
        return row[0]

    def has(self, relation: str, column: str = "") -> bool:
        if not column:
            return bool(self.one(f"SELECT to_regclass('{relation}') IS NOT NULL"))
        return bool(
            self.one(
                f"SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('{relation}')"
                f" AND attname = '{column}' AND NOT attisdropped)"
            )
        )

    @property
    def rows(self) -> int:
        return int(self.one("SELECT count(*) FROM documents WHERE content ~ '[^[:space:]]'"))

    def without(self, column: str) -> int:
        return int(self.one(f"SELECT count(*) FROM documents WHERE content ~ '[^[:space:]]' AND {column} IS NULL"))

    @property
    def tokens(self) -> int:
        """What the provider counted of the rows' texts for the new model; the old one has no price here."""
        self._texts |= {text for (text,) in self._conn.execute("SELECT content FROM documents")}
        return sum(self._api.count_tokens(text) for text in self._api.texts if text in self._texts)

    @property
    def overlap(self) -> tuple[int, float, int]:
        """Queries of the newest evaluation, mean share of the old top 10 in the new one, queries with less than 0.3."""
        shares = [
            len({tuple(hit[0]) for hit in each["old"]} & {tuple(hit[0]) for hit in each["new"]})
            / max(1, len(each["old"]))
            for each in self.one("SELECT measures -> 'rankings' FROM embedtui.evaluation ORDER BY id DESC LIMIT 1")
        ]
        return len(shares), sum(shares) / len(shares), sum(share < 0.3 for share in shares)


@pytest.fixture
def truth(database: str, api: LoopbackServer) -> Iterator[Truth]:
    make_documents(database, ROWS, index=True, text="document number {n} about subject {n}")
    found = Truth(database, api)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = ' ', embedding = NULL WHERE id > %s", [ROWS - BLANK])
        conn.execute("UPDATE documents SET embedding = NULL WHERE id <= %s", [WITHOUT_OLD])
    yield found
    found.close()


@pytest.fixture
def engine(database: str, api: LoopbackServer, tmp_path: Path, truth: Truth) -> Iterator[Engine]:
    flags: dict[str, Any] = {"new_model.price_per_million": PRICE, "new_model.max_inputs": 20, "cutover.soak_days": 0.0}
    # the old model has a provider of its own: what the new one's counts is what the new side cost
    with LoopbackServer({OLD: hash_model(8)}, key=api.key) as elsewhere:
        flags["old_model.base_url"] = elsewhere.base_url
        found = Engine(database, settings=settings_for(database, api, tmp_path, flags))
        yield found
        found.close()


@asynccontextmanager
async def screens(engine: Engine, folder: Path) -> AsyncIterator[tuple[Dashboard, Pilot[None]]]:
    app = Dashboard(
        lambda sink: Engine(engine.dsn, settings=engine.settings, on_event=sink), remember=False, interval=0.1
    )
    async with app.run_test(size=(160, 45)) as pilot:
        await until(pilot, lambda: app.snapshot is not None)
        yield app, pilot


async def text_of(app: Dashboard, pilot: Pilot[None], screen: str) -> str:
    """What a screen says once everything it asked for has come."""
    app.goto(screen)
    for _ in range(3):
        await until(pilot, lambda: not app.bridge.reading)
        await pilot.pause(0.1)
    return picture(app)


def percent(share: float, digits: int = 0) -> str:
    """A share as people round it, and never 100 % before all of it is there."""
    shown = math.floor(share * 10 ** (digits + 2) + 0.5) / 10**digits
    return f"{min(shown, 100 - 10**-digits) if share < 1 else 100:.{digits}f} %"


def both(share: float) -> set[str]:
    return {percent(share), percent(share, 1)}


def dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount == 0 or amount >= 1 else f"${amount:.4f}"


def unaccounted(text: str, facts: set[str]) -> list[tuple[str, str]]:
    """Numbers on the screen that are in no fact, with their line."""
    found = []
    for line in text.splitlines()[2:-1]:  # the header's clock and the keys have their own tests
        rest = IDLE.sub(" ", line)
        found += [(each[0], line.strip()) for each in NUMBER.finditer(rest) if each[0] not in facts]
    return found


def _recorded(truth: Truth) -> set[str]:
    """Figures and distances of the newest comparison, as it was recorded, in all the ways that a screen writes them."""
    found = truth.one(
        "SELECT jsonb_path_query_array(measures, '$.**') FROM embedtui.evaluation ORDER BY id DESC LIMIT 1"
    )
    numbers = {float(each) for each in found if isinstance(each, int | float) and not isinstance(each, bool)}
    said: set[str] = set()
    for each in numbers:
        said |= {f"{each:.{digits}f}" for digits in range(4)} | both(abs(each)) | both(abs(1 - each))
    return said


def facts(truth: Truth, snapshot: Snapshot) -> set[str]:
    """All that may be said of the state, as text, by SQL."""
    known: set[float | str] = {"100 %", "0 %", "100", "0", "1", "2", "3", "4", "10 %", "90 %"}  # shares, steps, keys
    rows = truth.rows
    known |= {rows}
    known |= {each for (each,) in truth._conn.execute("SELECT id FROM documents")}  # keys, on Compare and Faults
    if not truth.has("embedtui.migration"):
        return {f"{each:,}" if not isinstance(each, str) else each for each in known}
    for query in (
        "SELECT count(*) FROM embedtui.queue", "SELECT synced FROM embedtui.migration",
        "SELECT count(*) FROM embedtui.shard", "SELECT count(*) FROM embedtui.shard WHERE state = 'done'",
        "SELECT count(*) FROM embedtui.fault", "SELECT count(*) FROM embedtui.fault WHERE state = 'open'",
        "SELECT epoch FROM embedtui.route", "SELECT count(*) FROM embedtui.audit",
        "SELECT count(*) FROM embedtui.worker WHERE stopped_at IS NULL", "SELECT max(pid) FROM embedtui.worker",
        "SELECT sum(rows) FROM embedtui.shard",
        "SELECT max(max_concurrency) FROM embedtui.pace", "SELECT count(*) FROM embedtui.stale",
    ):  # fmt: skip
        known.add(truth.one(query) or 0)
    for column in ("embedding", "embedding_v2"):
        if truth.has("documents", column):
            missing = truth.without(column)
            known |= {missing, rows - missing, *both((rows - missing) / rows)}
    hot = truth.one("SELECT sum(hot_updates)::float8 / nullif(sum(updates), 0) FROM embedtui.shard")
    known |= both(hot or 0.0)
    tokens = truth.tokens
    known |= {tokens, dollars(tokens * PRICE / 1e6)}
    counted = ("old_tokens", "proof_tokens", "asked_old", "asked_new", "asked_old + asked_new")
    asked = {name: int(truth.one(f"SELECT {name} FROM embedtui.migration")) for name in counted}
    known |= {
        *asked.values(),
        *(dollars(each * PRICE / 1e6) for each in (asked["asked_new"], tokens + asked["asked_new"])),
    }
    if truth.one("SELECT count(*) FROM embedtui.evaluation"):
        count, mean, low = truth.overlap
        known |= {count, low, *both(mean), *_recorded(truth)}
        known |= {truth.edited, *both(truth.edited / rows), "5 %"}  # the last is what the gate allows
    return {f"{each:,.0f}" if not isinstance(each, str) else each for each in known}


async def all_true(engine: Engine, truth: Truth, folder: Path, **said: str) -> str:
    """Shows every screen; each number has to be a fact, and what is ``said`` has to stand on Overview."""
    async with screens(engine, folder) as (app, pilot):
        assert app.snapshot is not None
        wanted = list(said.values())
        with contextlib.suppress(AssertionError):
            await until(pilot, lambda: all(re.search(each, picture(app)) for each in wanted), 15)
        unsaid = [each for each in wanted if not re.search(each, picture(app))]
        assert not unsaid, f"{unsaid} not on\n{picture(app)}"
        overview = await text_of(app, pilot, "overview")
        wrong = {}
        for screen in SCREENS:
            text = await text_of(app, pilot, screen)
            found = unaccounted(text, facts(truth, app.snapshot))
            if found:
                wrong[screen] = found
        assert not wrong, "\n".join(f"{screen}: {each}" for screen, found in wrong.items() for each in found)
        return overview


async def test_every_number_is_what_the_database_holds(
    engine: Engine, truth: Truth, api: LoopbackServer, tmp_path: Path
) -> None:
    """From the plan to the end, with rows that lack an old vector, faulty ones, edits and a dead worker's queue."""
    conn, stop = truth._conn, threading.Event()
    await all_true(engine, truth, tmp_path, nothing="Nothing is changed yet")

    # half of the backfill, and nobody at work
    engine.run(stop, until=50)
    done = truth.rows - truth.without("embedding_v2")
    await all_true(
        engine, truth, tmp_path, rows=rf"{done} of {truth.rows} planned rows", share=percent(done / truth.rows, 1)
    )

    # paused by an operator, then refused by the provider
    engine.pause("lunch")
    await all_true(engine, truth, tmp_path, paused="paused", why="lunch")
    engine.resume()

    # three texts are rejected: never 100 % while they have no vector
    api.faults.add("rejected", containing="number 250 ")
    api.faults.add("rejected", containing="number 260 ")
    engine.run(stop)
    missing = truth.without("embedding_v2")
    assert missing == truth.one("SELECT count(*) FROM embedtui.fault WHERE state = 'open'") == 2
    spent = dollars(truth.tokens * PRICE / 1e6)
    overview = await all_true(
        engine, truth, tmp_path, rows=rf"{truth.rows - missing} of {truth.rows} rows", spent=re.escape(spent)
    )
    assert "100 %  " not in overview.split("Backfill")[1].split("\n")[1] and "100.0 %" not in overview
    assert percent((truth.rows - missing) / truth.rows, 1) in overview

    # mended
    api.faults.clear()
    engine.retry_faults()
    conn.execute("DELETE FROM documents WHERE id IN (200, 201)")
    with contextlib.suppress(EmbedtuiError):
        engine.run(stop)
    assert truth.without("embedding_v2") == 0
    overview = await all_true(engine, truth, tmp_path, rows=rf"{truth.rows} of {truth.rows} rows", share="100.0 %")

    # compared: verdict, overlap and low by the rankings that were recorded
    engine.compare(k=10)
    count, mean, low = truth.overlap
    await all_true(
        engine,
        truth,
        tmp_path,
        queries=rf"{low} (of {count}|of them) differ much",
        overlap=rf"overlap +{percent(mean)}",
    )

    # another operator's verdict on it, given while the screen is open
    async with screens(engine, tmp_path) as (app, pilot):
        await text_of(app, pilot, "compare")
        await until(pilot, lambda: app.comparison is not None)
        assert app.comparison is not None
        first = app.comparison.queries[0].query_id
        conn.execute("INSERT INTO embedtui.verdict (query, who, verdict) VALUES (%s, 'boris', 'old')", [first])
        await until(pilot, lambda: "old better, by boris" in picture(app))
        conn.execute("DELETE FROM embedtui.verdict")
        await until(pilot, lambda: "by boris" not in picture(app))

    # edits before the cutover, which the application does not embed with the old model: the worker notes them
    conn.execute("UPDATE documents SET content = content || ', edited' WHERE id BETWEEN 101 AND 124")
    truth.edited = 24
    engine.run(stop)
    engine.cutover(10, override={"gate": "test"})
    took = [
        truth.one(
            f"SELECT measures #> '{{measures,latency_{side}_ms}}' FROM embedtui.evaluation ORDER BY id DESC LIMIT 1"
        )
        for side in ("old", "new")
    ]
    latency = " +".join(f"{mark} {each[0]:.1f}, {each[1]:.1f} ms" for mark, each in zip("◇◆", took, strict=True))
    await all_true(
        *(engine, truth, tmp_path),
        share="90 %",
        new="10 %",
        rollback=f"24 stale, {WITHOUT_OLD} missing",
        latency=latency,
    )
    engine.cutover(override={"gate": "test", "sync": "test", "coverage": "test"})
    assert truth.without("embedding") == WITHOUT_OLD
    overview = await all_true(
        engine, truth, tmp_path, rollback=rf"24 stale, {WITHOUT_OLD} missing of {truth.rows} rows"
    )
    assert "✓ fresh" not in overview and "in sync" not in overview, "nobody is at work"

    # what waits is said, and counted with the old side
    conn.execute("UPDATE documents SET content = content || ', late' WHERE id BETWEEN 141 AND 145")
    truth.edited += 5
    waiting = truth.one("SELECT count(*) FROM embedtui.queue")
    await all_true(
        engine, truth, tmp_path, queue=rf"{waiting} changes? waits?", rollback=rf"29 stale, {WITHOUT_OLD} missing"
    )

    # rolled back as it is, the old side serves that; then it is cut over again
    engine.rollback()
    served = rf"old side +! serves 29 stale, {WITHOUT_OLD} missing of {truth.rows} rows"
    told = f"it serves 29 rows stale, {WITHOUT_OLD} rows without an old vector"
    await all_true(engine, truth, tmp_path, served=served, told=told)
    engine.cutover(override={"gate": "test", "sync": "test", "coverage": "test"})

    # a worker with a living old model makes the old side whole again, but for rows that never had a vector
    engine.run(stop)
    engine.rollback()
    served = rf"old side +! serves {WITHOUT_OLD} missing of {truth.rows} rows"
    await all_true(engine, truth, tmp_path, serves="old serves", served=served)
    engine.cutover(override={"gate": "test", "sync": "test", "coverage": "test"})

    # ended: what was spent stays, nothing is in sync, and nothing moves back
    before = truth.tokens
    engine.cleanup("documents", override={"soak": "test", "coverage": "test", "queue": "test"})
    spent = dollars(before * PRICE / 1e6)
    async with screens(engine, tmp_path) as (app, pilot):
        overview = await text_of(app, pilot, "overview")
        assert spent in overview and "in sync" not in overview and "the old side is gone" in overview
        cutover = await text_of(app, pilot, "cutover")
        assert "moves all reads back" not in cutover and "the old side is gone" in cutover


def test_searches_a_second_are_what_the_counters_moved(engine: Engine, truth: Truth) -> None:
    """Of each side, over the time between two readings, with a Router that comes in between."""
    engine.run(threading.Event(), until=1)
    meter, shown = SearchMeter(), None
    before = 0.0
    sums = {"old": 0, "new": 0}
    for step, (old, new) in enumerate([(0, 0), (40, 8), (35, 16), (50, 12), (44, 20)]):
        if step == 0:
            truth._conn.execute(
                "INSERT INTO embedtui.listener (id, name, host, pid, application, epoch, epoch_seen_at, searches_old,"
                " searches_new) VALUES (gen_random_uuid(), 'documents', 'web', 1, 'search-api', 1, now(), 500, 700)"
            )
            before = truth.one("SELECT sum(searches_old + searches_new)::float8 FROM embedtui.listener")
        truth._conn.execute(
            "UPDATE embedtui.listener SET searches_old = searches_old + %s, searches_new = searches_new + %s,"
            " heartbeat = now()",
            [old, new],
        )
        sums = {"old": sums["old"] + old, "new": sums["new"] + new}
        snapshot = engine.snapshot()
        shown = meter.add(replace(snapshot, as_of=snapshot.as_of + timedelta(seconds=2 * step)))
    moved = truth.one("SELECT sum(searches_old + searches_new)::float8 FROM embedtui.listener") - before
    assert shown is not None
    assert moved == sum(sums.values())
    assert shown == pytest.approx((sums["old"] / 8, sums["new"] / 8), rel=0.1)
