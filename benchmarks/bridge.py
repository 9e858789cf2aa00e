"""What a bridge keeps of the old model's search, for every ordered pair of three real models on judged queries.

python -m benchmarks.bridge FOLDER      (or EMBEDTUI_SCIFACT=FOLDER)

FOLDER as for `benchmarks.evidence`, with minilm.npz, e5.npz and use.npz (d, q: unit vectors in file order). Prints, by
sample size, nDCG@10 of the old model, the new one and the bridge, the bridge's overlap with the old model's top 10, the
map that was chosen, its held-out figures, and whether the bound would have refused it; then how well the held-out
figures foretell what searches keep. Last, for a tenth of the rows written since the old model died: their share of the
bridged top 10, and its nDCG@10, with their own old vectors, with none, with what the map gives, and as they are stored.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.common import machine
from embedtui.engine.bridge.fit import fit
from embedtui.engine.bridge.measuring import scores
from embedtui.engine.bridge.stand_in import stand_in
from embedtui.engine.validate.measures import ndcg
from embedtui.model import Distance

MODELS = ("minilm", "e5", "use")
SIZES = (200, 350, 500, 700, 0)
"""Rows of the sample; 0: all."""
FIGURES = ("recall_1", "recall_10", "overlap_10")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=os.environ.get("EMBEDTUI_SCIFACT"))
    parser.add_argument("--seeds", type=int, default=3, help="samples drawn of each size")
    options = parser.parse_args()
    if options.folder is None:
        parser.error("name the folder of the collection")
    folder = Path(options.folder)
    keys = [json.loads(line)["id"] for line in (folder / "docs.jsonl").read_text("utf-8").splitlines()]
    asked = [json.loads(line)["id"] for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    gains: dict[str, dict[str, float]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            gains.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = float(row["score"])
    documents, queries = {}, {}
    for model in MODELS:
        with np.load(folder / f"{model}.npz") as file:
            documents[model], queries[model] = file["d"].astype(np.float32), file["q"].astype(np.float32)

    def judged(found: np.ndarray, pool: np.ndarray) -> tuple[float, np.ndarray]:
        top = np.argsort(-scores(found, pool, Distance.COSINE), axis=1, kind="stable")[:, :10]
        each = [
            ndcg([str(keys[at]) for at in row], gains.get(str(query), {}))
            for row, query in zip(top, asked, strict=True)
        ]
        return float(np.mean(each)), top

    print(machine())
    print(
        "new -> old        rows  old   new   bridge kept overlap  map           recall@1 recall@10 overlap@10 refused"
    )
    predicted: list[tuple[float, ...]] = []
    for new, old in itertools.permutations(MODELS, 2):
        native, native_top = judged(queries[old], documents[old])
        fresh, _ = judged(queries[new], documents[new])
        for size in SIZES:
            lines = []
            for seed in range(options.seeds if size else 1):
                rows, rest = np.split(np.random.default_rng(seed).permutation(len(keys)), [size or len(keys)])
                began = time.perf_counter()
                pairs = documents[new][rows], documents[old][rows]
                found = fit(*pairs, Distance.COSINE, others=documents[old][rest], seed=seed)
                seconds = time.perf_counter() - began
                bridged, top = judged(found.map(queries[new]), documents[old])
                overlap = float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(top, native_top, strict=True)]))
                status = found.status
                figures = status.figures
                lines.append((len(rows), bridged, bridged / native, overlap, figures, status, seconds))
                predicted.append((*(getattr(figures, name).mean for name in FIGURES), bridged / native))
            rows_used, bridged, kept, overlap = (float(np.mean([line[at] for line in lines])) for at in range(4))
            f = lines[0][4]
            refused = sum(bool(line[5].refused) for line in lines)
            chosen = lines[0][5]
            called = chosen.kind + (f" {chosen.parameter:g}" if chosen.parameter is not None else "")
            means = [float(np.mean([getattr(line[4], name).mean for line in lines])) for name in FIGURES]
            print(
                f"{new:>6} -> {old:<6} {rows_used:6.0f} {native:5.3f} {fresh:5.3f} {bridged:6.3f} {kept:4.0%}"
                f" {overlap:7.2f}"
                f"  {called:<13} {means[0]:8.2f} {means[1]:9.2f} {means[2]:10.2f} {refused} of {len(lines)}"
                f"  ({lines[0][6]:.2f} s; recall@10 {f.recall_10.low:.2f} to {f.recall_10.high:.2f})"
            )
    table = np.asarray(predicted)
    for at, name in enumerate(FIGURES):
        found = rank_correlation(table[:, at], table[:, -1])
        print(f"rank correlation of held-out {name} with what searches keep: {found:.2f}")
    print("new -> old, a tenth written since: share of the top 10 and nDCG with own vectors, none, mapped, as stored")
    for new, old in itertools.permutations(MODELS, 2):
        part = np.random.default_rng(0).random(len(keys)) < 0.1
        found = fit(documents[new][~part], documents[old][~part], Distance.COSINE)
        given = documents[new][part]
        ways = (documents[old][part], None, found.map(given), stand_in(found.map, found.status)(given))
        said = []
        for vectors in ways:
            pool = documents[old].copy()
            pool[part] = -pool.mean(axis=0) if vectors is None else vectors
            value, top = judged(found.map(queries[new]), pool)
            said.append(f"{part[top].mean():4.0%} {value:.3f}")
        print(f"{new:>6} -> {old:<6} {'   '.join(said)}")


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
