"""Every way a provider can fail, through the engine: no row is blamed for it, and work goes on by itself or one key."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from embedtui.demo.api import FaultKind, LoopbackServer
from embedtui.engine.backfill import tempo
from embedtui.engine.engine import Engine
from embedtui.errors import EmbedtuiError, ProviderError
from embedtui.model import Condition, Event, Failed, FaultClass, FaultState, Phase
from embedtui.providers.start import TEXTS
from tests.kits.support import make_documents, settings_for, wait_for

ROWS = 120


@pytest.fixture
def engine(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Engine]:
    """A prepared migration; faults put in force now meet the work itself, not the check of the settings."""
    make_documents(database, ROWS)
    events: list[Event] = []
    engine = Engine(
        database,
        settings=settings_for(
            database,
            api,
            tmp_path,
            {
                "placement": "table",
                "pacing.max_concurrency": 2,
                "new_model.max_inputs": 40,
                "new_model.price_per_million": 100.0,
            },
        ),
        on_event=events.append,
    )
    engine.prepare()
    engine.events = events  # type: ignore[attr-defined]
    api.reset_counters()
    yield engine
    engine.close()


class Running:
    """A run in a thread of its own."""

    def __init__(self, engine: Engine, *, follow: bool = False) -> None:
        self.error: EmbedtuiError | None = None
        self.stop = threading.Event()
        self._engine, self._follow = engine, follow
        self._thread = threading.Thread(target=self._run, name="run")

    def _run(self) -> None:
        try:
            self._engine.run(self.stop, follow=self._follow)
        except EmbedtuiError as error:
            self.error = error

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the run hangs"

    def ends(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the run hangs"


def sound(engine: Engine) -> bool:
    report = engine.verify(sample=ROWS)
    return report.clean and report.embedded == ROWS and report.mismatched == 0 and not engine.faults()


PASSING = [
    (FaultKind.RATE_LIMITED, {"retry_after": 0.2}),
    (FaultKind.RATE_LIMITED, {}),
    (FaultKind.SERVER_ERROR, {}),
    (FaultKind.UNAVAILABLE, {}),
    (FaultKind.RESET, {}),
    (FaultKind.HANG, {"seconds": 0.2}),
    (FaultKind.HALF_REPLY, {}),
    (FaultKind.NOT_JSON, {}),
    (FaultKind.NO_DATA, {}),
    (FaultKind.FEWER, {}),
    (FaultKind.DUPLICATE_INDEX, {}),
    (FaultKind.NAN, {}),
    (FaultKind.ZERO, {}),
    (FaultKind.SHUFFLED, {}),
    (FaultKind.FLOATS, {}),
    (FaultKind.NO_USAGE, {}),
]


@pytest.mark.parametrize(("kind", "options"), PASSING, ids=[f"{kind}{'-told' if o else ''}" for kind, o in PASSING])
@pytest.mark.variants(8)
def test_what_passes_is_waited_out_and_blames_no_row(
    engine: Engine, api: LoopbackServer, kind: FaultKind, options: dict[str, float]
) -> None:
    fault = api.faults.add(kind, times=3, **options)  # type: ignore[arg-type]
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert fault not in api.faults.active, "it was met"
    assert sound(engine)
    if kind not in (FaultKind.SHUFFLED, FaultKind.FLOATS, FaultKind.NO_USAGE):
        failures = [event for event in engine.events if isinstance(event, Failed)]  # type: ignore[attr-defined]
        assert failures and failures[0].fault_class is FaultClass.PROVIDER, "the operator is told"


def test_a_provider_that_hangs_is_named_while_it_does_and_the_log_tells_for_how_long(
    engine: Engine, api: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempo, "SILENT_SECONDS", 1.0)
    api.faults.add(FaultKind.HANG, times=2, seconds=5, predicate=lambda text: text not in TEXTS)  # the check is well
    with Running(engine) as running:
        wait_for(lambda: any("unanswered" in hold.detail for hold in engine.snapshot().reasons), "nobody is named")
        assert engine.snapshot().condition is Condition.THROTTLED
        running.ends()
    assert sound(engine)
    over = [line.detail for line in engine.snapshot().log if line.act == "over"]
    assert len(over) == 1 and re.match(r"provider: ([5-9]|1\d) s, from", over[0]), over


@pytest.mark.parametrize("kind", [FaultKind.UNAVAILABLE, FaultKind.NAN, FaultKind.RESET, FaultKind.HALF_REPLY])
@pytest.mark.variants(2)
def test_a_dead_provider_costs_a_handful_of_requests_and_goes_on_by_itself(
    engine: Engine, api: LoopbackServer, kind: FaultKind
) -> None:
    api.faults.add(kind, predicate=lambda _: True)
    with Running(engine) as running:
        wait_for(lambda: any(hold.name == "provider" for hold in engine.snapshot().reasons), "no hold is shown")
        assert engine.snapshot().condition is Condition.THROTTLED
        assert api.requests <= 16
        assert engine.snapshot().faulty == 0
        api.faults.clear()
        running.ends()
        assert running.error is None
    assert sound(engine)


def test_an_unusable_vector_for_a_single_text_is_not_its_fault_while_an_innocent_one_fares_no_better(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    make_documents(database, 3)
    engine = Engine(database, settings=settings_for(database, api, tmp_path, {"new_model.max_inputs": 1}))
    engine.prepare()
    api.faults.add(FaultKind.ZERO)
    with Running(engine) as running:
        wait_for(lambda: any(hold.name == "provider" for hold in engine.snapshot().reasons), "no hold is shown")
        assert not engine.faults()
        api.faults.clear()
        running.ends()
        assert running.error is None
    assert engine.verify().clean and not engine.faults()
    engine.close()


def test_a_provider_that_refuses_connections_is_waited_for(engine: Engine, api: LoopbackServer) -> None:
    api.stop()
    with Running(engine) as running:
        wait_for(lambda: any(hold.name == "provider" for hold in engine.snapshot().reasons), "no hold is shown")
        assert "connection" in engine.snapshot().reasons[0].detail.lower()
        api.start()
        running.ends()
        assert running.error is None
    assert sound(engine)


REFUSING = [
    (FaultKind.UNAUTHORIZED, {}),
    (FaultKind.FORBIDDEN, {}),
    (FaultKind.MODEL_NOT_FOUND, {}),
    (FaultKind.RETIRED, {"status": 410}),
    (FaultKind.INSUFFICIENT_QUOTA, {}),
    (FaultKind.WRONG_DIMENSIONS, {}),
    (FaultKind.NO_DIMENSIONS, {}),
]


@pytest.mark.parametrize(("kind", "options"), REFUSING, ids=[str(kind) for kind, _ in REFUSING])
def test_a_wrong_setting_pauses_at_once_and_a_run_goes_on_once_it_is_mended(
    engine: Engine, api: LoopbackServer, kind: FaultKind, options: dict[str, int]
) -> None:
    api.faults.add(kind, **options)  # type: ignore[arg-type]
    with pytest.raises(ProviderError) as caught:
        engine.run(threading.Event())
    assert caught.value.hint and caught.value.exit_code == 4
    assert api.requests <= 8
    snapshot = engine.snapshot()
    assert snapshot.condition is Condition.FAILED and snapshot.reasons[0].detail.startswith(caught.value.message[:20])
    assert snapshot.next_act == "run"
    assert snapshot.faulty == 0
    api.faults.clear()
    engine.run(threading.Event())
    assert sound(engine)


def test_a_following_run_goes_on_by_one_key(engine: Engine, api: LoopbackServer) -> None:
    api.faults.add(FaultKind.INSUFFICIENT_QUOTA)
    with Running(engine, follow=True) as running:
        wait_for(lambda: engine.snapshot().condition is Condition.FAILED)
        asked = api.requests
        time.sleep(1.0)
        assert api.requests == asked, "nothing is asked while it is paused"
        api.faults.clear()
        engine.resume()
        wait_for(lambda: engine.snapshot().phase is Phase.VALIDATE)
        assert running.error is None
    assert sound(engine)


@pytest.mark.parametrize("fault", [{"kind": FaultKind.REJECTED}, {"kind": FaultKind.NAN}], ids=["rejected", "nan"])
def test_a_rejected_text_stands_alone_and_can_be_retried(
    engine: Engine, api: LoopbackServer, fault: dict[str, FaultKind]
) -> None:
    api.faults.add(fault["kind"], containing="number 77")
    snapshot = engine.run(threading.Event())
    assert snapshot.phase is Phase.VALIDATE, "its innocent neighbours are embedded"
    assert [row.key for row in engine.faults()] == [("77",)]
    assert engine.faults()[0].reason
    report = engine.verify()
    assert (report.embedded, report.faulty, report.clean) == (ROWS - 1, 1, False)
    # about 2 log2(n) requests for the halves, and a few for the doubt
    assert api.requests <= 4 + 2 * 6 + 8
    api.faults.clear()
    assert engine.retry_faults() == 1
    engine.run(threading.Event())
    assert sound(engine)


def test_many_rejected_texts_do_not_pass_for_a_wrong_setting(engine: Engine, api: LoopbackServer) -> None:
    """All but one, so that there are many before the first that is accepted."""
    api.faults.add(
        FaultKind.REJECTED, predicate=lambda text: text.startswith("document number") and not text.endswith("number 60")
    )
    engine.run(threading.Event())
    assert {row.key for row in engine.faults()} == {(str(number),) for number in range(1, ROWS + 1) if number != 60}
    assert engine.verify().embedded == 1
    engine.skip_faults()
    assert engine.verify().clean
    assert {row.state for row in engine.faults()} == {FaultState.SKIPPED}


def test_a_provider_that_rejects_every_text_blames_none_for_good(engine: Engine, api: LoopbackServer) -> None:
    api.faults.add(FaultKind.REJECTED)
    with pytest.raises(ProviderError, match="rejects every text"):
        engine.run(threading.Event())
    assert len(engine.faults()) < 8
    api.faults.clear()
    engine.retry_faults()
    engine.run(threading.Event())
    assert sound(engine)


def test_a_deleted_row_leaves_no_fault_behind(engine: Engine, api: LoopbackServer, database: str) -> None:
    api.faults.add(FaultKind.REJECTED, containing="number 77")
    assert engine.run(threading.Event()).faulty == 1
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("DELETE FROM documents WHERE id = 77")
    assert engine.verify().clean
    assert engine.snapshot().faulty == 0


def test_a_long_retry_after_is_shown_and_ends_by_one_key(engine: Engine, api: LoopbackServer) -> None:
    api.faults.add(FaultKind.RATE_LIMITED, times=4, retry_after=600)
    with Running(engine) as running:
        wait_for(lambda: any(hold.name == "rate" for hold in engine.snapshot().reasons), "no hold is shown")
        snapshot = engine.snapshot()
        assert snapshot.condition is Condition.THROTTLED
        [hold] = [hold for hold in snapshot.reasons if hold.name == "rate"]
        assert "429" in hold.detail and "Next try at" in hold.detail
        assert api.requests <= 4
        api.faults.clear()
        engine.resume()
        running.ends()
        assert running.error is None
    assert sound(engine)


def test_the_spend_cap_holds_over_a_restart(engine: Engine, api: LoopbackServer, database: str) -> None:
    price = 100.0 / 1e6
    engine.set_pace(spend_cap=400 * price)
    for _ in range(2):
        with Running(engine) as running:
            wait_for(lambda: any(hold.name == "spend_cap" for hold in engine.snapshot().reasons), "no hold is shown")
            assert engine.snapshot().condition is Condition.THROTTLED
            assert running.error is None
        assert 0 < api.tokens <= 400
    engine.set_pace(spend_cap=0)
    engine.run(threading.Event())
    assert sound(engine)
