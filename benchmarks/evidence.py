"""Four verdicts on a public test collection, and the judged figures held against a standard tool.

python -m benchmarks.evidence FOLDER [--html FILE]      (or EMBEDTUI_SCIFACT=FOLDER)

FOLDER holds a subset of SciFact: docs.jsonl (id, title, text), queries.jsonl (id, text), qrels.tsv (query-id,
corpus-id, score) and minilm.npz (d, q: unit vectors in file order). The old model is the demo's, the new one's vectors
are served by the loopback API; queries are embedded through the real client. Needs the development dependencies.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ir_measures
import numpy as np
import psycopg
from ir_measures import RR, R, nDCG

from embedtui.demo.api import LoopbackServer, ModelFunction
from embedtui.demo.database import EmbeddedServer
from embedtui.demo.models import NEW_MODEL, OLD_MODEL, load_models
from embedtui.engine.validate.compare import compare
from embedtui.engine.validate.gate import decide_gate
from embedtui.engine.validate.report import to_csv, to_html
from embedtui.engine.validate.run import CompareOptions
from embedtui.model import Comparison, EmbeddingModel, Migration, QueryInput, Side
from embedtui.postgres.connect import connect
from embedtui.providers import make_embedder
from tests.kits.comparing import Vectors, connector, literal, make_table

MINILM = "minilm"


@dataclass(frozen=True)
class Collection:
    """Documents and judged queries with the vectors of three models."""

    keys: list[str]
    texts: list[str]
    query_ids: list[str]
    queries: tuple[QueryInput, ...]
    judgments: dict[str, dict[str, int]]
    models: dict[str, ModelFunction]


def read(folder: Path) -> Collection:
    """The collection in ``folder``."""
    lines = (folder / "docs.jsonl").read_text("utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    asked = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    judgments: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, gain = line.split("\t")
        judgments.setdefault(query, {})[document] = int(gain)
    texts = [f"{document['title']}\n{document['text']}" for document in documents]
    vectors = np.load(folder / "minilm.npz")
    known = dict(zip([*texts, *(query["text"] for query in asked)], [*vectors["d"], *vectors["q"]], strict=True))

    def minilm(given: Sequence[str], dimensions: int | None) -> Vectors:
        return np.stack([known[text] for text in given])

    return Collection(
        [document["id"] for document in documents],
        texts,
        [query["id"] for query in asked],
        tuple(
            QueryInput(query["text"], tuple(((key,), float(gain)) for key, gain in judgments[query["id"]].items()))
            for query in asked
        ),
        judgments,
        {**load_models(texts), MINILM: minilm},
    )


def compared(
    server: EmbeddedServer,
    collection: Collection,
    name: str,
    old: str,
    new: str,
    *,
    index: str = "hnsw",
    permute: bool = False,
) -> tuple[str, Migration, Comparison]:
    """DSN of a database of its own, the migration and its judged comparison."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    dsn = server.dsn(name)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector")
    vectors = {model: collection.models[model](collection.texts, None) for model in (old, new)}
    if permute:
        vectors[new] = vectors[new][np.random.default_rng(1).permutation(len(vectors[new]))]
    with LoopbackServer(collection.models) as api:
        models = [EmbeddingModel(model, vectors[model].shape[1], base_url=api.base_url) for model in (old, new)]
        migration = make_table(
            dsn,
            collection.texts,
            vectors[old],
            vectors[new],
            keys=collection.keys,
            old_model=models[0],
            new_model=models[1],
            index=index,
        )
        environ = {"OPENAI_API_KEY": api.key}
        embedders = {
            Side.OLD: make_embedder(migration.old_model, environ=environ),
            Side.NEW: make_embedder(migration.new_model, environ=environ),
        }
        made = compare(
            connector(dsn), migration, collection.queries, CompareOptions(source="scifact"), embedders=embedders
        )
        return dsn, migration, decide_gate(connector(dsn), migration, made)


def standard_tool(run: dict[str, dict[str, float]], judgments: dict[str, dict[str, int]]) -> tuple[float, ...]:
    """nDCG@10, recall@10 and MRR by ir_measures (trec_eval)."""
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ 10, RR], judgments, run)
    return found[nDCG @ 10], found[R @ 10], found[RR]


def runs_of_csv(text: str, ids: dict[str, str]) -> dict[str, dict[str, dict[str, float]]]:
    """Runs (side -> query -> document -> score) of an exported comparison."""
    runs: dict[str, dict[str, dict[str, float]]] = {"old": {}, "new": {}}
    for row in csv.DictReader(io.StringIO(text)):
        runs[row["side"]].setdefault(ids[row["query"]], {})[row["key"]] = -float(row["rank"])
    return runs


def runs_of_sql(dsn: str, collection: Collection, models: tuple[str, str]) -> dict[str, dict[str, dict[str, float]]]:
    """The same by plain SQL without an index, one query after the other, with nothing of embedtui's search in it."""
    runs: dict[str, dict[str, dict[str, float]]] = {"old": {}, "new": {}}
    with connect(dsn, name="benchmark") as conn:
        conn.execute("SET enable_indexscan = off")
        for side, column, model in (("old", "embedding", models[0]), ("new", "embedding_v2", models[1])):
            vectors = collection.models[model]([query.text for query in collection.queries], None)
            for number, vector in zip(collection.query_ids, vectors, strict=True):
                rows = conn.execute(
                    f"SELECT id FROM public.docs ORDER BY {column} OPERATOR(public.<=>) %s::public.vector, id LIMIT 10",
                    [literal(vector)],
                )
                runs[side][number] = {key: -float(rank) for rank, (key,) in enumerate(rows)}
    return runs


def main() -> int:
    """Exit status 0 where all holds, 1 where something does not; 0 with a message without the data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=os.environ.get("EMBEDTUI_SCIFACT"))
    parser.add_argument("--html", type=Path, help="write the first comparison's page here")
    given = parser.parse_args()
    if given.folder is None or not Path(given.folder).is_dir():
        print("skipped: name the folder with the SciFact subset (argument, or EMBEDTUI_SCIFACT)")
        return 0
    collection = read(Path(given.folder))
    wrong = 0

    def hold(what: str, holds: bool) -> None:
        nonlocal wrong
        wrong += not holds
        print(f"{'holds' if holds else 'FAILS'}  {what}")

    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "pg", version=18) as server:
        dsn, migration, made = compared(server, collection, "better", OLD_MODEL, MINILM)
        figures = made.measures
        ours = {
            "old": (figures.ndcg_old, figures.recall_old, figures.mrr_old),
            "new": (figures.ndcg_new, figures.recall_new, figures.mrr_new),
        }
        ids = {query.text: number for query, number in zip(collection.queries, collection.query_ids, strict=True)}
        exported = runs_of_csv(to_csv(made), ids)
        independent = runs_of_sql(dsn, collection, (OLD_MODEL, MINILM))
        for side in ("old", "new"):
            mine = ["unknown" if figure is None else f"{figure.mean:.4f}" for figure in ours[side]]
            for source, runs in (("exported run", exported), ("plain SQL", independent)):
                theirs = [f"{figure:.4f}" for figure in standard_tool(runs[side], collection.judgments)]
                hold(f"{side}: nDCG@10, recall@10, MRR {' '.join(mine)}; ir_measures on {source}: {' '.join(theirs)}",
                     mine == theirs)  # fmt: skip
        report(made)
        better = says(made, "quality", "The new model is better")
        hold("a better model is called better, and passes", better and made.verdict == "PASS")
        if given.html is not None:
            given.html.write_text(to_html(made, migration), "utf-8")

        _, _, made = compared(server, collection, "equal", NEW_MODEL, MINILM)
        report(made)
        hold(f"equal quality, overlap {made.measures.overlap.mean:.2f}: different, not worse",
             says(made, "quality", "Different, not worse") and made.measures.overlap.mean < 0.5)  # fmt: skip

        _, _, made = compared(server, collection, "broken", OLD_MODEL, MINILM, permute=True)
        report(made)
        hold("vectors permuted: FAIL", says(made, "quality", "The new model is worse") and made.verdict == "FAIL")

        _, _, made = compared(server, collection, "index", OLD_MODEL, MINILM, index="ivfflat WITH (lists = 300)")
        report(made)
        failed = [check.name for check in made.checks if check.result == "fail"]
        hold("a bad ivfflat index: the loss is laid at its door", failed == ["index loss"] and made.verdict == "FAIL")
    return 1 if wrong else 0


def says(made: Comparison, name: str, text: str) -> bool:
    """Whether the check called ``name`` begins like this."""
    return any(check.name == name and check.detail.startswith(text) for check in made.checks)


def report(made: Comparison) -> None:
    """The checks, indented."""
    for check in made.checks:
        print(f"       {check.result:<12} {check.name}: {check.detail} {check.hint if check.result == 'fail' else ''}")
    print(f"       {made.verdict}")


if __name__ == "__main__":
    sys.exit(main())
