"""A provider that means harm, or a broken gateway before one, met by a whole run: it ends well, or says what to do."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo import hostile
from embedtui.demo.api import FaultKind, LoopbackServer, Spoil, hash_model
from embedtui.engine import Engine
from embedtui.errors import EmbedtuiError, ProviderError
from embedtui.model import Phase
from tests.kits.cli_kit import Shell
from tests.kits.support import NEW, OLD, make_documents, settings_for, wait_for

ROWS = 200
ALL = {"placement": "table", "new_model.max_inputs": 40, "new_model.price_per_million": 0.1}


@pytest.fixture
def make(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(rows: int = ROWS, **flags: object) -> Engine:
        make_documents(database, rows)
        made.append(Engine(database, settings=settings_for(database, api, tmp_path, {**ALL, **flags})))
        made[0].prepare()
        api.reset_counters()
        return made[0]

    yield make
    for engine in made:
        engine.close()


def ends_well(engine: Engine, rows: int = ROWS) -> None:
    stop = threading.Event()
    given_up = threading.Timer(120, stop.set)
    given_up.start()
    try:
        assert engine.run(stop).phase is Phase.VALIDATE
    finally:
        given_up.cancel()
    report = engine.verify(sample=rows)
    assert report.clean and report.embedded == rows and not report.mismatched
    assert not engine.faults()


# ------------------------------------------------------------------------------------------------ odd, and survived

_LIMITS = ["inf", "nan", "-1000", "1e308", "9" * 400, "0", "-0", "lots"]


def _limits(value: str) -> dict[str, str]:
    kinds = [(what, unit) for what in ("limit", "remaining", "reset") for unit in ("tokens", "requests")]
    return {f"x-ratelimit-{what}-{unit}": value for what, unit in kinds}


_ODD: dict[str, Spoil] = {
    **{f"limits of {value[:8]}": hostile.reply(headers=_limits(value)) for value in _LIMITS},
    **{f"usage of {tokens:.0e}": hostile.usage(tokens) for tokens in (10**30, 2**63 - 1, -(10**30), 1)},
    "another model": hostile.called("somebody-else"),
    "half the vectors zero": hostile.some(0.5),
    "half the vectors nan": hostile.some(0.5, float("nan")),
    "a fifth infinite": hostile.some(0.2, float("inf")),
    "packed": hostile.packed,
}


@pytest.mark.parametrize("spoil", _ODD.values(), ids=_ODD)
@pytest.mark.variants(9)
def test_what_is_odd_is_survived(make: Callable[..., Engine], api: LoopbackServer, spoil: Spoil) -> None:
    engine = make()
    api.faults.add("spoiled", spoil=spoil, model=NEW)
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    api.faults.clear()
    assert not engine.faults(), "no row is blamed"
    spent = engine.snapshot().backfill.spent
    assert spent is not None and spent < 0.01, "what is spent is what the texts can have cost"
    report = engine.verify(sample=ROWS)
    assert report.clean and report.embedded == ROWS and not report.mismatched


_PASSING: dict[str, Spoil] = {
    **{
        f"{name} of {value[:8]}": hostile.reply(429, {name: value})
        for name in ("retry-after", "retry-after-ms")
        for value in ("inf", "nan", "-5", "0")
    },
    "a date that is none": hostile.reply(503, {"retry-after": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"}),
    "nested without end": hostile.reply(body=b"[" * 100_000),
    "a bomb": hostile.bomb(64 << 20),
    "a bomb as an error": hostile.bomb(64 << 20, status=500),
}


@pytest.mark.parametrize("spoil", _PASSING.values(), ids=_PASSING)
@pytest.mark.variants(6)
def test_what_passes_is_waited_out(make: Callable[..., Engine], api: LoopbackServer, spoil: Spoil) -> None:
    engine = make()
    api.faults.add("spoiled", spoil=spoil, times=3)
    ends_well(engine)


@pytest.mark.parametrize("value", ["Fri, 31 Dec 9999 23:59:59 GMT", "1e300", "9" * 40 + "d"])
def test_a_wait_until_the_year_9999_is_an_hour_and_ends_by_one_key(
    make: Callable[..., Engine], api: LoopbackServer, value: str
) -> None:
    engine = make()
    api.faults.add("spoiled", spoil=hostile.reply(429, {"retry-after": value}))
    stop = threading.Event()
    run = threading.Thread(target=_run, args=(engine, stop))
    run.start()
    try:
        wait_for(lambda: any("Next try" in hold.detail for hold in engine.snapshot().reasons))
        with psycopg.connect(engine.dsn) as conn:
            row = conn.execute("SELECT blocked_until - now() < '70 min' FROM embedtui.pace").fetchone()
        assert row == (True,)
        api.faults.clear()
        engine.resume()
        wait_for(lambda: engine.snapshot().phase is Phase.VALIDATE)
    finally:
        stop.set()
        run.join()


def _run(engine: Engine, stop: threading.Event) -> None:
    with contextlib.suppress(EmbedtuiError):
        engine.run(stop)


def test_a_retry_after_of_nothing_is_no_busy_loop(make: Callable[..., Engine], api: LoopbackServer) -> None:
    engine = make()
    api.faults.add("spoiled", spoil=hostile.reply(503, {"retry-after": "0"}), times=12)
    began = time.monotonic()
    ends_well(engine)
    assert time.monotonic() - began > 3, "the pauses grow"


# ------------------------------------------------------------------------------------------------- said, and stopped


def test_texts_are_not_sent_on(make: Callable[..., Engine], api: LoopbackServer) -> None:
    engine = make()
    with LoopbackServer({NEW: hash_model(16)}, key=api.key, log_texts=1000) as other:
        api.faults.add("spoiled", spoil=hostile.reply(307, {"Location": f"{other.base_url}/embeddings"}))
        with pytest.raises(ProviderError, match="no text was sent") as caught:
            engine.run(threading.Event())
        assert other.requests == 0
    assert other.base_url in str(caught.value)
    api.faults.clear()
    ends_well(engine)


@pytest.mark.parametrize("factor", [1e6, 1e-9], ids=["too large", "too small"])
def test_a_model_whose_numbers_do_not_fit_is_said(
    make: Callable[..., Engine], api: LoopbackServer, factor: float
) -> None:
    engine = make(halfvec=True)
    api.faults.add("spoiled", spoil=hostile.vectors(lambda numbers: numbers * factor))
    with pytest.raises(ProviderError, match="halfvec"):
        engine.run(threading.Event())
    assert not engine.faults()


def test_a_text_whose_numbers_do_not_fit_is_that_rows_fault(make: Callable[..., Engine], api: LoopbackServer) -> None:
    engine = make(halfvec=True)
    model = hash_model(16)

    def overflowing(texts: object, dimensions: int | None) -> np.ndarray:
        vectors = model(texts, dimensions)  # type: ignore[arg-type]
        for place, text in enumerate(texts):  # type: ignore[call-overload]
            if text.endswith("number 77"):
                vectors[place] = 70_000
        return vectors

    api.models[NEW] = overflowing
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    (fault,) = engine.faults()
    assert fault.key == ("77",) and "halfvec" in fault.reason
    api.models[NEW] = model


def test_another_model_is_audited_once(make: Callable[..., Engine], api: LoopbackServer) -> None:
    engine = make()
    api.faults.add("spoiled", spoil=hostile.called("text-embedding-of-somebody-else"))
    ends_well(engine)
    said = [entry.detail for entry in engine.audit() if entry.act == "provider"]
    assert len(said) == 1
    assert "text-embedding-of-somebody-else" in said[0] and NEW in said[0]


# ------------------------------------------------------------------------------------------------------------- sync


@pytest.mark.parametrize("kind", [FaultKind.NAN, FaultKind.ZERO])
def test_an_edit_with_an_unusable_vector_is_a_fault_and_later_edits_are_taken_up(
    make: Callable[..., Engine], api: LoopbackServer, database: str, kind: FaultKind
) -> None:
    engine = make(40)
    ends_well(engine, 40)
    api.faults.add(kind, containing="POISON")
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'POISON' WHERE id = 5")
        conn.execute("UPDATE documents SET content = 'edited ' || id WHERE id BETWEEN 10 AND 20")
        _follow(engine, lambda: [row.key for row in engine.faults()] == [("5",)] and not engine.snapshot().sync.queued)
        conn.execute("UPDATE documents SET content = 'harmless' WHERE id = 5")
        _follow(engine, lambda: not engine.faults() and not engine.snapshot().sync.queued)
    ends_well(engine, 40)


def _follow(engine: Engine, until: Callable[[], bool]) -> None:
    stop = threading.Event()

    def follow() -> None:
        with contextlib.suppress(Exception):
            engine.run(stop, follow=True)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        wait_for(until)
    finally:
        stop.set()
        thread.join()


# ------------------------------------------------------------------------------------------------------------- stop


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.variants(1)
def test_sigterm_during_a_drip_is_prompt_and_stores_what_is_paid(
    database: str, api: LoopbackServer, tmp_path: Path, head: bool
) -> None:
    make_documents(database, ROWS)
    parts = [
        'table = "documents"',
        "[old_model]",
        f'name = "{OLD}"',
        "retired = true",
        "[new_model]",
        "max_inputs = 20",
        "timeout_seconds = 3600",
    ]
    (tmp_path / "embedtui.toml").write_text("\n".join([*parts, "[pacing]", "max_concurrency = 3"]))
    shell = Shell(
        tmp_path,
        {
            "DATABASE_URL": database, "OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url,
            "EMBED_MODEL": NEW, "EMBED_DIMENSIONS": "16", "XDG_CONFIG_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1",
        },
    )  # fmt: skip
    api.faults.add("spoiled", spoil=hostile.drip(30.0, head=head), containing="number 150")
    process = shell.start("run")
    try:
        wait_for(lambda: any("number 150" in text for text in api.texts))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)  # a reply of hours is not waited for
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    with psycopg.connect(database) as conn:
        stored = {text for (text,) in conn.execute("SELECT content FROM documents WHERE embedding_v2 IS NOT NULL")}
    paid = {text for text in api.texts if text.startswith("document ")}  # not the start's own
    assert stored < paid
    dripped = paid - stored
    assert len(dripped) <= 20 and any("number 150" in text for text in dripped), "of one request"
