"""A provider that fails for one text, or for many at once, in whatever words: that text is found, no other waits."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.demo import hostile
from embedtui.demo.api import LoopbackServer, Spoil
from embedtui.demo.api.protocol import Refusal
from embedtui.engine import Engine
from embedtui.errors import EmbedtuiError, ProviderError
from embedtui.model import Condition, Event, Phase
from embedtui.postgres.state.faults import record_faults
from tests.kits.support import NEW, connect, make_documents, settings_for, wait_for

ROWS = 60
POISON = "Confidential: Ada Quill lives at 9 Harbour Row, dimensions of the safe 40 by 60"


@pytest.fixture
def make(database: str, api: LoopbackServer, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(rows: int = ROWS, **flags: object) -> Engine:
        make_documents(database, rows)
        events: list[Event] = []
        settings = settings_for(database, api, tmp_path, {"placement": "table", **flags})
        made.append(Engine(database, settings=settings, on_event=events.append))
        made[0].events = events  # type: ignore[attr-defined]
        made[0].prepare()
        api.reset_counters()
        return made[0]

    yield make
    for engine in made:
        engine.close()


def answer(status: int, body: object) -> Spoil:
    return hostile.reply(status, body=body if isinstance(body, bytes) else json.dumps(body).encode())


@contextlib.contextmanager
def following(engine: Engine) -> Iterator[None]:
    stop = threading.Event()

    def follow() -> None:
        with contextlib.suppress(EmbedtuiError):
            engine.run(stop, follow=True)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


REFUSALS: dict[str, Spoil] = {
    "500 infinity": answer(500, {"error": {"message": "json: unsupported value: +Inf", "type": "api_error"}}),
    "503 too large": answer(503, {"error": "input is larger than the micro batch"}),
    "403 page": answer(403, b"<html><title>Request rejected</title>Support ID 8812</html>"),
    "406 page": answer(406, b"<html>Not Acceptable! mod_security</html>"),
    "404": answer(404, {"detail": "no route"}),
    "424": answer(424, {"error": "Backend error", "error_type": "Backend"}),
    "422 that echoes": answer(422, {"detail": [{"msg": "bad string", "input": POISON}]}),
    "400 that echoes": answer(400, {"error": {"message": f"cannot embed {POISON!r}"}}),
    "200 that is none": answer(200, {"error": "tokenizer crashed"}),
    "200 that echoes": answer(200, {"error": f"cannot: {POISON}"}),
    "half a page": answer(200, b"<html>"),
}


@pytest.mark.parametrize("spoil", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.variants(5)
def test_the_text_that_fails_alone_is_found_and_its_words_are_nowhere(
    make: Callable[..., Engine], api: LoopbackServer, database: str, spoil: Spoil
) -> None:
    engine = make()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = %s WHERE id = 23", [POISON])
    api.faults.add("spoiled", spoil=spoil, containing=POISON)
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    (fault,) = engine.faults()
    assert fault.key == ("23",) and fault.reason
    assert engine.verify().embedded == ROWS - 1
    events: list[Event] = engine.events  # type: ignore[attr-defined]
    said = [fault.reason, *map(str, events), *(entry.detail for entry in engine.audit())]
    with psycopg.connect(database) as conn:
        said += [str(row) for row in conn.execute("SELECT reason FROM embedtui.migration")]
        said += [str(row) for row in conn.execute("SELECT blocked_why FROM embedtui.pace")]
    assert not [each for each in said if "Harbour" in each or "Quill" in each]


@pytest.mark.parametrize("status", [403, 424, 500])
def test_an_edit_that_cannot_be_embedded_keeps_no_other_waiting(
    make: Callable[..., Engine], api: LoopbackServer, database: str, status: int
) -> None:
    engine = make()
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    api.faults.add("spoiled", spoil=answer(status, b"<html>no</html>"), containing="POISON")
    with following(engine), psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'POISON' WHERE id IN (4, 31)")
        conn.execute("UPDATE documents SET content = 'edited ' || id WHERE id BETWEEN 40 AND 55")
        wait_for(lambda: len(engine.faults()) == 2 and not engine.snapshot().sync.queued)
    assert {row.key for row in engine.faults()} == {("4",), ("31",)}
    assert engine.verify().stale == 0


@pytest.mark.parametrize("placement", ["column", "table"])
def test_a_verdict_on_a_text_that_comes_when_the_row_has_another_blames_nobody(
    make: Callable[..., Engine], api: LoopbackServer, database: str, placement: str
) -> None:
    """A worker examines a refused text for a while; sync may have embedded the row's next one by then."""
    engine = make(placement=placement)
    api.faults.add("rejected", containing="POISON")
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = 'POISON' WHERE id IN (1, 2, 3)")
        engine.run(threading.Event())
        assert {row.key for row in engine.faults()} == {("1",), ("2",), ("3",)}
        conn.execute("UPDATE documents SET content = 'mended' WHERE id = 1")
        conn.execute("UPDATE documents SET content = NULL WHERE id = 2")
        engine.run(threading.Event())
        assert [row.key for row in engine.faults()] == [("3",)]
        migration = engine.require()
        with connect(database) as session:
            record_faults(
                session, migration.id, [((key,), "400: what a worker was told of the text before") for key in "12"]
            )
        assert len(engine.faults()) == 3
        with following(engine):
            wait_for(lambda: [row.key for row in engine.faults()] == [("3",)])
    assert engine.verify().undecided


@pytest.mark.parametrize(("share", "rows"), [(0.3, 15)])
def test_a_provider_that_fails_at_random_blames_nobody(
    make: Callable[..., Engine], api: LoopbackServer, share: float, rows: int
) -> None:
    engine = make(rows, **{"new_model.max_inputs": 1})
    chance = random.Random(4)
    api.faults.add("spoiled", spoil=answer(500, {"error": "flaky"}), predicate=lambda _: chance.random() < share)
    engine.run(threading.Event())
    assert not engine.faults() and engine.verify().embedded == rows


NO_API: dict[str, Spoil] = {
    "an error object": answer(200, {"error": "Unknown path /embeddings"}),
    "a page": answer(200, b"<!doctype html><html>Sign in</html>"),
    "a list": answer(200, []),
    "no data": answer(200, {"object": "list", "data": []}),
}


@pytest.mark.parametrize("spoil", NO_API.values(), ids=NO_API)
def test_what_never_was_an_embeddings_api_is_refused_at_the_start(
    make: Callable[..., Engine], api: LoopbackServer, spoil: Spoil
) -> None:
    engine = make()
    api.faults.add("spoiled", spoil=spoil)
    with pytest.raises(ProviderError, match="no embeddings API") as caught:
        engine.run(threading.Event())
    assert "base_url" in caught.value.hint
    assert not engine.faults()


LISTS: dict[str, Callable[[dict[str, list[dict[str, object]]]], object]] = {
    "the first alone": lambda payload: payload.update(data=payload["data"][:1]),
    "index 0 for all": lambda payload: [item.update(index=0) for item in payload["data"]],
    "one vector for all": lambda payload: [
        item.update(embedding=payload["data"][0]["embedding"]) for item in payload["data"]
    ],
    "empty, but for a single text": lambda payload: [
        item.update(embedding=[]) for item in payload["data"] if len(payload["data"]) > 1
    ],
}


@pytest.mark.parametrize("change", LISTS.values(), ids=LISTS)
def test_a_server_that_answers_no_lists_says_what_to_set(
    make: Callable[..., Engine], api: LoopbackServer, change: Callable[[dict[str, object]], object]
) -> None:
    engine = make()
    api.faults.add("spoiled", spoil=hostile.changed(change))
    with pytest.raises(ProviderError) as caught:
        engine.run(threading.Event())
    assert "max_inputs = 1" in caught.value.hint


@pytest.mark.parametrize("nothing", [[], None])
def test_an_empty_vector_is_that_texts_fault(
    make: Callable[..., Engine], api: LoopbackServer, database: str, nothing: object
) -> None:
    engine = make()

    model = api.models[NEW]

    def marked(texts: Sequence[str], dimensions: int | None) -> np.ndarray:
        vectors = model(texts, dimensions).copy()
        vectors[[place for place, text in enumerate(texts) if text.endswith("number 17")]] = np.nan
        return vectors

    def emptied(payload: dict[str, list[dict[str, object]]]) -> None:
        for item in payload["data"]:
            if np.isnan(np.frombuffer(base64.b64decode(str(item["embedding"])), "<f4")).any():
                item["embedding"] = nothing

    api.models[NEW] = marked
    api.faults.add("spoiled", spoil=hostile.changed(emptied))
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert [row.key for row in engine.faults()] == [("17",)]
    assert engine.verify().embedded == ROWS - 1


def test_what_waits_for_its_turn_when_the_work_is_paused_is_not_sent(
    make: Callable[..., Engine], api: LoopbackServer
) -> None:
    engine = make(400, **{"new_model.max_inputs": 2})
    engine.set_pace(requests_per_minute=60)
    with following(engine):
        wait_for(lambda: api.requests >= 4)
        engine.pause()
        wait_for(lambda: engine.snapshot().condition is Condition.PAUSED)
        seen = [api.requests]

        def settled() -> bool:  # ten looks at the knobs without another request
            seen.append(api.requests)
            time.sleep(0.4)
            return len(seen) > 10 and len(set(seen[-10:])) == 1

        wait_for(settled)
        assert seen[-1] - seen[0] <= 3, "at a request a second, sixteen were waiting"
        engine.set_pace(requests_per_minute=0)
        engine.resume()
        wait_for(lambda: engine.snapshot().phase is Phase.VALIDATE)
    assert not engine.faults() and engine.verify().embedded == 400


@pytest.mark.parametrize(("status", "limit"), [(400, 24), (413, 7), (422, 50)])
@pytest.mark.parametrize("told", [True, False])
def test_a_limit_costs_few_refusals_and_none_in_the_next_run(
    make: Callable[..., Engine], api: LoopbackServer, database: str, status: int, limit: int, told: bool
) -> None:
    engine = make(400)
    model, refused = api.models[NEW], []

    def limited(texts: Sequence[str], dimensions: int | None) -> np.ndarray:
        if len(texts) > limit:
            refused.append(len(texts))
            raise Refusal(status, f"no more than {limit} documents a call, please" if told else "Unprocessable")
        return model(texts, dimensions)

    api.models[NEW] = limited
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert len(refused) < 5 and not engine.faults() and engine.verify().embedded == 400
    refused.clear()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE documents SET content = content || ' again'")
    assert engine.run(threading.Event()).phase is Phase.VALIDATE
    assert len(refused) <= (0 if told else 2) and engine.verify().stale == 0
