"""The proof: stored vectors made again by the old model from the texts as they would be sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from embedtui.config import Settings, load_settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.plan.start import require_startable
from embedtui.errors import Refused
from embedtui.model import Check, Remedy
from tests.kits.support import connect, vector_literal

OLD = hash_model(24, "old")
MODELS = {"ancient": OLD, "other": hash_model(24, "other"), "next": hash_model(12)}


@pytest.fixture(scope="module")
def api() -> Iterator[LoopbackServer]:
    with LoopbackServer(MODELS, log_texts=10_000) as running:
        yield running


@pytest.fixture(autouse=True)
def counted_anew(api: LoopbackServer) -> None:
    api.faults.clear()
    api.reset_counters()


def articles(dsn: str, rows: int, *, text: str = "{body}", kind: str = "vector(24)", odd: int = 0) -> None:
    """A table whose vectors are those of ``text``; every ``odd``-th by another model."""
    bodies = [f"what article {n} has to say" for n in range(rows)]
    vectors = OLD([text.format(body=body) for body in bodies], None)
    others = MODELS["other"](bodies, None)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE TABLE articles (no int PRIMARY KEY, body text, vec {kind})")  # type: ignore[arg-type]
        with conn.cursor().copy("COPY articles FROM STDIN") as copy:
            for n, body in enumerate(bodies):
                copy.write_row((n, body, vector_literal(others[n] if odd and n % odd == 0 else vectors[n])))


def settings_of(api: LoopbackServer, **flags: Any) -> Settings:
    named = {name.replace("__", "."): value for name, value in flags.items()}
    given = {"table": "articles", "old_model.name": "ancient", "new_model.name": "next", "new_model.dimensions": 12}
    environ = {"OPENAI_API_KEY": api.key, "OPENAI_BASE_URL": api.base_url}
    return load_settings({**given, **named}, environ=environ, cwd=Path("none"))


def proof(dsn: str, api: LoopbackServer, *, check_provider: bool = True, **flags: Any) -> Check:
    with connect(dsn, read_only=True) as conn:
        made = make_plan(conn, settings_of(api, **flags), check_provider=check_provider)
    return next(check for check in made.checks if check.name == "proof")


@pytest.mark.parametrize("kind", ["vector(24)", "halfvec(24)", "vector"])
def test_vectors_of_these_texts_are_proven_with_what_it_cost(database: str, api: LoopbackServer, kind: str) -> None:
    articles(database, 400, kind=kind)
    check = proof(database, api, old_model__price_per_million=10.0)
    assert check.result == "pass"
    assert "300 of 300 rows" in check.detail
    assert "median 1.000" in check.detail
    assert "tokens, $0.0" in check.detail
    assert api.inputs == 302, "two words of the new model, and the rows"
    with connect(database, read_only=True) as conn:
        require_startable(conn, settings_of(api))


def test_nothing_is_asked_without_being_told(database: str, api: LoopbackServer) -> None:
    articles(database, 5)
    check = proof(database, api, check_provider=False)
    assert (check.result, api.requests) == ("unknown", 0)
    assert check.remedies == (Remedy.ASK,) and check.advice.endswith(": `embedtui plan --check-provider`.")


@pytest.mark.parametrize(
    ("made_of", "flags"),
    [
        ("Title\n{body}", {}),
        ("passage: {body}", {}),
        ("{body}", {"old_model__name": "other"}),
        ("{body}", {"old_model__document_prefix": "search_document: "}),
    ],
    ids=["title", "prefix", "model", "prefix too much"],
)
def test_another_text_or_model_stops_the_plan_and_the_run(
    database: str, api: LoopbackServer, made_of: str, flags: dict[str, Any]
) -> None:
    articles(database, 60, text=made_of)
    check = proof(database, api, **flags)
    assert check.result == "fail"
    assert "0 of 20 rows" in check.detail, "the first ones say enough"
    for setting in ("content", "old_model.name", "old_model.document_prefix"):
        assert setting in check.hint
    with connect(database, read_only=True) as conn:
        with pytest.raises(Refused, match="text or the model is another"):
            require_startable(conn, settings_of(api, **flags))
        require_startable(conn, settings_of(api, accept="proof", **flags))
    assert proof(database, api, accept="proof", **flags).result == "warn"


def test_the_right_prefix_is_part_of_the_proof(database: str, api: LoopbackServer) -> None:
    articles(database, 30, text="passage: {body}")
    assert proof(database, api, old_model__document_prefix="passage: ").result == "pass"


@pytest.mark.parametrize(("rows", "every"), [(600, 50), (250, 50), (40, 20)])
def test_a_few_rows_of_another_model_of_the_same_size_are_found(
    database: str, api: LoopbackServer, rows: int, every: int
) -> None:
    articles(database, rows, odd=every)
    check = proof(database, api)
    assert check.result == "fail"
    assert "vectors of another model or of texts that have changed since" in check.detail


def test_one_edited_row_only_warns(database: str, api: LoopbackServer) -> None:
    articles(database, 50)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE articles SET body = 'edited just now' WHERE no = 7")
    check = proof(database, api)
    assert check.result == "warn"
    assert "e.g. 7 (" in check.detail


def test_a_dead_an_unnamed_and_a_retired_old_model_are_unknown_and_no_obstacle(
    database: str, api: LoopbackServer
) -> None:
    articles(database, 30)
    for flags, said in (
        ({"old_model__name": "gone-for-good"}, "did not answer"),
        ({"old_model__name": None}, "no old model is named"),
        ({"old_model__retired": True}, "ancient is retired"),
    ):
        check = proof(database, api, **flags)
        assert check.result == "unknown", check
        assert said in check.detail
        with connect(database, read_only=True) as conn:
            require_startable(conn, settings_of(api, **flags))


def test_long_texts_are_looked_at_within_a_bound_of_tokens(database: str, api: LoopbackServer) -> None:
    long = "word " * 1000
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("CREATE TABLE articles (no int PRIMARY KEY, body text, vec vector(24))")
        texts = [f"{n} {long}" for n in range(200)]
        for n, vector in enumerate(OLD(texts, None)):
            conn.execute("INSERT INTO articles VALUES (%s, %s, %s)", [n, texts[n], vector_literal(vector)])
    check = proof(database, api)
    assert check.result == "pass"
    assert "no more were asked: their texts are long" in check.detail
    assert api.inputs < 100


def test_rows_without_a_vector_or_a_text_prove_nothing(database: str, api: LoopbackServer) -> None:
    articles(database, 40)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE articles SET vec = NULL WHERE no % 2 = 0")
        conn.execute("UPDATE articles SET body = ' ' WHERE no % 3 = 0")
    assert "13 of 13 rows" in proof(database, api).detail
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("UPDATE articles SET vec = NULL")
    assert proof(database, api).result == "unknown"


def test_rounding_is_no_difference(database: str, api: LoopbackServer) -> None:
    articles(database, 30)
    noise = np.random.default_rng(3)
    with psycopg.connect(database, autocommit=True) as conn:
        for n, vector in conn.execute("SELECT no, vec::real[] FROM articles").fetchall():
            shaken = np.array(vector) + noise.normal(0, 0.005, 24)
            conn.execute("UPDATE articles SET vec = %s WHERE no = %s", [vector_literal(shaken), n])
    assert proof(database, api).result == "pass"
