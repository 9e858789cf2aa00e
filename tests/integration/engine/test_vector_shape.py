"""Vectors divided by their length, or padded to their column: on every way to the table, and in every query."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psycopg
import pytest

from embedtui.config import Settings
from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.engine import Engine
from embedtui.engine.plan.plan import make_plan
from embedtui.engine.validate import queries
from embedtui.errors import Refused, SettingsError
from embedtui.integrations.routing import Routing
from embedtui.model import Check, EmbeddingModel, QueryInput, Side
from embedtui.postgres.state.queries import load_vectors
from embedtui.router import Router
from tests.kits.cutover_kit import make
from tests.kits.support import NEW, OLD, connect, make_documents, settings_for, vector_literal

ROWS = 120
NORMAL = {"new_model.normalise": True, "distance": "ip"}
PADDED = {"new_model.pad_to": 24, "old_model.pad_to": 12, "old_model.dimensions": 8}
ALL = {**NORMAL, **PADDED, "placement": "table"}


def long_model(dimensions: int) -> Callable[[Sequence[str], int | None], np.ndarray]:
    """As ``hash_model``, each vector of a length of its own, from 0.5 to 4."""
    unit = hash_model(dimensions)

    def embed(texts: Sequence[str], requested: int | None) -> np.ndarray:
        factors = np.array([0.5 + (sum(text.encode()) % 8) / 2 for text in texts])
        return np.asarray(unit(texts, requested) * factors[:, None])

    return embed


def meant(texts: Sequence[str], flags: dict[str, object]) -> np.ndarray:
    """The new vectors of these texts as they are to be stored."""
    vectors = long_model(16)(texts, None)
    if "new_model.normalise" in flags:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.pad(vectors, ((0, 0), (0, int(str(flags.get("new_model.pad_to", 16))) - 16)))


def stored(database: str, flags: dict[str, object]) -> tuple[list[str], np.ndarray]:
    source, column = "documents", "embedding_v2"
    if flags.get("placement") == "table":
        source, column = "documents JOIN documents_embedding_v2 v USING (id)", "v.embedding"
    with psycopg.connect(database) as conn:
        rows = conn.execute(f"SELECT content, {column}::real[] FROM {source} ORDER BY id").fetchall()
    return [text for text, _ in rows], np.array([vector for _, vector in rows])


def table(database: str, api: LoopbackServer, flags: dict[str, object]) -> None:
    """The article's table, whose application pads the old model's vectors where ``flags`` say so."""
    api.models[NEW] = long_model(16)
    size = int(str(flags.get("old_model.pad_to", 8)))
    make_documents(database, ROWS, dimensions=8)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            f"ALTER TABLE documents ALTER embedding TYPE vector({size})"
            f" USING (embedding::real[] || array_fill(0::real, ARRAY[{size - 8}]))::vector"
        )
        operators = "vector_ip_ops" if flags.get("distance") == "ip" else "vector_cosine_ops"
        conn.execute(f"CREATE INDEX ON documents USING hnsw (embedding {operators})")


def settings_of(database: str, api: LoopbackServer, folder: Path, flags: dict[str, object]) -> Settings:
    return settings_for(database, api, folder, {"placement": "column", "accept": [], **flags})


def checks_of(database: str, settings: Settings) -> dict[str, Check]:
    with connect(database, read_only=True) as conn:
        return {check.name: check for check in make_plan(conn, settings, check_provider=True).checks}


WAYS = pytest.mark.parametrize("flags", [NORMAL, PADDED, ALL], ids=["normalised", "padded", "all in a side table"])


@WAYS
def test_every_vector_and_every_query_has_the_shape(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    table(database, api, flags)
    settings = settings_of(database, api, tmp_path, flags)
    checks = checks_of(database, settings)
    assert (checks["proof"].result, "lengths" in checks) == ("pass", False), checks
    with contextlib.closing(Engine(database, settings=settings)) as engine:
        engine.run(threading.Event())
        texts, vectors = stored(database, flags)
        assert np.allclose(vectors, meant(texts, flags), atol=1e-5)
        # what is edited goes the same way, before the cutover and after it, on both sides
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'edited once' WHERE id = 7")
        engine.run(threading.Event())
        made = engine.compare([QueryInput(f"document number {number}") for number in range(1, 35)])
        assert made.measures.queries == 34
        assert all(query.new[0].key == query.old[0].key for query in made.queries[:5])
        assert not [line for line in made.measures.unknown if "long ones first" in line]
        engine.cutover(override={"gate": "a test of another thing"})
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("UPDATE documents SET content = 'edited twice' WHERE id = 9")
        engine.run(threading.Event())
        texts, vectors = stored(database, flags)
        assert np.allclose(vectors, meant(texts, flags), atol=1e-5)
        with psycopg.connect(database) as conn:
            row = conn.execute("SELECT embedding::real[] FROM documents WHERE id = 9").fetchone()
        assert row is not None
        assert np.allclose(row[0][:8], hash_model(8)(["edited twice"], None)[0], atol=1e-5)
        assert not any(row[0][8:])
        assert engine.verify(sample=30).clean
        found = engine.search_both("edited twice")
        assert (found.old[0].key, found.new[0].key) == (("9",), ("9",))


@WAYS
def test_a_service_gives_its_models_vectors_as_they_come(
    database: str, api: LoopbackServer, tmp_path: Path, flags: dict[str, object]
) -> None:
    table(database, api, flags)
    with contextlib.closing(Engine(database, settings=settings_of(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
        engine.cutover(override={"gate": "a test of another thing"})
    text = "document number 11"
    sides = {OLD: hash_model(8)([text], None)[0], NEW: long_model(16)([text], None)[0]}
    with Router(database) as router, psycopg.connect(database, autocommit=True) as conn:
        for model, vector in sides.items():
            route = router.route("documents", model=model)
            assert route.dimensions == len(vector), "what the service is to ask its provider for"
            shape = (
                meant([text], flags)[0]
                if model == NEW
                else np.pad(vector, (0, 12 - 8 if PADDED.items() <= flags.items() else 0))
            )
            for given in (vector, shape, vector_literal(vector)):
                hits = route.search(conn, given, 1)
                assert hits[0].key == ("11",)
                distance = -1.0 if flags.get("distance") == "ip" else 0.0
                assert hits[0].distance == pytest.approx(distance, abs=1e-5)
            assert Routing(router, "documents").fit(route, vector) == pytest.approx(shape.tolist(), abs=1e-6)
            for given in (vector, shape):
                found = conn.execute(
                    "SELECT key, distance FROM embedtui.search('documents', %s, %s::vector, 1)",
                    [model, vector_literal(given)],
                ).fetchone()
                assert found is not None
                assert found == ("11", pytest.approx(hits[0].distance, abs=1e-5))
            with pytest.raises(Refused, match="dimensions"):
                route.bind(vector[:-1])
        told = conn.execute("SELECT model, dimensions FROM embedtui.route('documents')").fetchone()
        assert told == (NEW, 16)
        # and what it writes itself is stored in the same form
        conn.execute("INSERT INTO documents (id, content) VALUES (900, 'written by the application')")
        mine = long_model(16)(["written by the application"], None)
        router.write(conn, "documents", 900, mine[0], model=NEW, content="written by the application")
    texts, vectors = stored(database, flags)
    assert np.allclose(vectors[texts.index("written by the application")], meant(["written by the application"], flags))


def test_a_batch_job_brings_the_same(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    flags: dict[str, object] = {**NORMAL, **PADDED, "new_model.batch": True, "new_model.batch_inputs": 500}
    api.models[NEW] = long_model(16)
    make_documents(database, 1500, text="row {n} " + "x" * 60)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "ALTER TABLE documents ALTER embedding TYPE vector(12) USING (embedding::real[] || '{0,0,0,0}')::vector"
        )
    with contextlib.closing(Engine(database, settings=settings_of(database, api, tmp_path, flags))) as engine:
        engine.run(threading.Event())
    assert api.batches.inputs > 1000
    texts, vectors = stored(database, flags)
    assert np.allclose(vectors, meant(texts, flags), atol=1e-5)


def test_a_bridge_is_fitted_on_and_asked_with_vectors_in_their_form(
    database: str, api: LoopbackServer, tmp_path: Path
) -> None:
    flags = {**NORMAL, "new_model.pad_to": 24, "old_model.retired": True}
    table(database, api, flags)
    engine = Engine(database, settings=settings_of(database, api, tmp_path, flags))
    with contextlib.closing(engine):
        engine.bridge(override={"bridge": "a model without meaning has no map"})
        with Router(database) as router, psycopg.connect(database, autocommit=True) as conn:
            route = router.route("documents")
            assert (route.bridged, route.side, route.dimensions) == (True, Side.OLD, 16)
            vector = long_model(16)(["document number 3"], None)[0]
            by_router = np.array(Routing(router, "documents").fit(route, vector))
            assert by_router.shape == (8,)
            assert np.allclose(by_router, Routing(router, "documents").fit(route, vector * 3), atol=1e-4)
            row = conn.execute(
                "SELECT embedtui.bridge('documents', %s::vector)::real[]", [vector_literal(vector)]
            ).fetchone()
            assert row is not None
            assert np.allclose(row[0], by_router, atol=1e-4)


def test_logged_queries_have_it_too(database: str) -> None:
    migration = make(database, rows=3, old_model=EmbeddingModel("old-model", 8, given=6))
    given, padded = (3.0, 1, 1, 1, 1, 2), (1.0, 2, 3, 4, 5, 6, 0, 0)
    with connect(database) as conn:
        asked = [QueryInput("one", vector=given), QueryInput("two", vector=padded)]
        ids = queries.store(conn, migration, asked)
        found = load_vectors(conn, migration.old_model.id, ids)
        assert [found[number].tolist() for number in ids] == [[*given, 0, 0], [*padded]]
        with pytest.raises(SettingsError, match="old-model has 6"):
            queries.store(conn, migration, [QueryInput("three", vector=(1.0, 2.0))])


@pytest.mark.parametrize("distance", ["ip", "l2"])
def test_lengths_that_the_distance_weighs_stop_the_plan_and_are_mended_as_it_says(
    database: str, api: LoopbackServer, tmp_path: Path, distance: str
) -> None:
    table(database, api, {})
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            f"DROP INDEX documents_embedding_idx;CREATE INDEX ON documents USING hnsw (embedding vector_{distance}_ops)"
        )
    check = checks_of(database, settings_of(database, api, tmp_path, {}))["lengths"]
    assert check.result == "fail"
    assert "new_model.normalise = true" in check.hint
    settings = settings_of(database, api, tmp_path, {"new_model.normalise": True})
    assert "lengths" not in checks_of(database, settings)
    with contextlib.closing(Engine(database, settings=settings)) as engine:
        engine.prepare()
        # it is part of what the vectors are, and no setting to change on the way
        other = settings_of(database, api, tmp_path, {"new_model.normalise": False})
        with contextlib.closing(Engine(database, settings=other)) as second, pytest.raises(Refused, match="normalise"):
            second.run(threading.Event())


def test_padding_is_seen_and_said(database: str, api: LoopbackServer, tmp_path: Path) -> None:
    table(database, api, {"old_model.pad_to": 20})
    check = checks_of(database, settings_of(database, api, tmp_path, {"old_model.retired": True}))["padding"]
    assert check.result == "warn"
    assert "zero after the first 8 of 20" in check.detail
    assert "old_model.pad_to = 20" in check.hint
    flags: dict[str, object] = {"old_model.dimensions": 8, "old_model.pad_to": 20, "new_model.pad_to": 20}
    checks = checks_of(database, settings_of(database, api, tmp_path, flags))
    assert (checks["padding"].result, checks["proof"].result) == ("pass", "pass")
    assert "gives 16 numbers; zeros make 20" in checks["padding"].detail
