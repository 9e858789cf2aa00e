"""Measures the cleanup under an application's writes: does it end in one try, how long does it take, is anything lost?

python -m benchmarks.cleanup [--times 5] [--ways column,folded,kept] [--rows 2000] [--writes 50] [--copy 0]

Each round is a table of its own, taken through its migration up to the soak, with a worker (`run --follow`) at work and
an application that inserts and edits texts and knows nothing of vectors. The rounds go in turn through: a new column, a
side table that is folded, a side table that stays; each with and without an archive of the old vectors, so often as
--times says. The tables are made, in turn, by LangChain's PGVector and PGVectorStore, LlamaIndex's PGVectorStore,
SQLAlchemy and Django, where they are installed, and by SQL (one that stays a side table always). After the cleanup
every row's vector is computed anew: what was written before change capture ended has to have its own. Then the library
adds a row and finds it, by its vector of the new model: alone, by the table's old names, and by its integration (of a
side table that stays, and of SQL's, the Router finds one). Leaves with 1 where a cleanup failed, a vector is wrong or
missing, or a statement of an application failed.

With --copy ROWS: only the copy of a fold, without its rests, beside one UPDATE of all rows: 540 characters, 768
dimensions, HNSW on the old column.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict

import psycopg

from benchmarks.common import NEW_DIMENSIONS, OLD_DIMENSIONS, database, fill, fresh, machine
from benchmarks.libraries import KINDS, after_cleanup, layout_of
from embedtui.engine.cleanup import fold as folding
from embedtui.errors import EmbedtuiError
from embedtui.model import EmbeddingModel, Phase, PlacementKind, TableName
from embedtui.postgres.connect import connect
from embedtui.postgres.sides.fold import prepare_sql
from embedtui.postgres.sides.placement import make_placement
from embedtui.postgres.state import pointer, schema
from embedtui.postgres.state.migrations import create_migration
from embedtui.router import Router
from tests.kits.busy import DOCUMENTS, FOR, MODEL, Journey, soaking
from tests.kits.samples import sample_migration

WAYS = {"column": ("column", None), "folded": ("table", True), "kept": ("table", False)}
"""Placement, and whether it is folded."""


def clean_up(at: Journey, way: str, archive: str | None) -> tuple[float, str]:
    """Seconds, and how it failed (empty: it ended)."""
    began = time.monotonic()
    try:
        at.engine.cleanup(at.busy.layout.table, override=FOR, archive=archive, fold=WAYS[way][1])
    except EmbedtuiError as error:
        return time.monotonic() - began, str(error)
    return time.monotonic() - began, ""


def routed(dsn: str) -> list[str]:
    """What is wrong for a Router after it."""
    with Router(dsn) as router, psycopg.connect(dsn) as conn:
        # not edited since change capture ended
        text = str(conn.execute("SELECT content FROM documents ORDER BY written LIMIT 1").fetchall()[0][0])
        [hit] = router.route("documents").search(conn, MODEL([text], None)[0], k=1, columns=["content"])
    found, distance = hit.values["content"], hit.distance
    return [] if found == text and distance < 1e-4 else [f"{text!r} finds {found!r} at {distance}"]


def archived(dsn: str, key: str) -> tuple[int, int]:
    """Rows of the archive, and different keys among them."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(f"SELECT count(*), count(DISTINCT {key}) FROM old_vectors").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def copying(dsn: str, rows: int, *, plain: bool) -> str:
    """One table's copy, in a line."""
    fill(dsn, rows)
    with connect(dsn, name="cleanup", statement_timeout_ms=0) as conn:
        schema.install(conn)
        pointer.install_functions(conn)
        oid = conn.execute("SELECT 'public.documents'::regclass::oid").fetchone()
        assert oid is not None
        sample = sample_migration(
            table_oid=oid[0],
            placement=PlacementKind.TABLE,
            old_model=EmbeddingModel("old", OLD_DIMENSIONS),
            new_model=EmbeddingModel("new", NEW_DIMENSIONS),
            new_table=TableName("public", "documents_embedding_v2"),
            new_column="embedding",
            phase=Phase.CLEANUP,
        )
        migration = create_migration(conn, sample)
        for statement in make_placement(migration).prepare_sql():
            conn.execute(statement)
        conn.execute("INSERT INTO public.documents_embedding_v2 SELECT id, embedding, 1, 1 FROM public.documents")
        pointer.create_route(conn, migration)
        conn.execute("UPDATE embedtui.route SET ending = 'cleanup', active = 'new', canary = 100")
        conn.execute("CHECKPOINT")
        before = conn.execute(_COUNTERS).fetchone()
        began = time.monotonic()
        if plain:
            for statement in prepare_sql(conn, migration, "embedding_v2"):
                conn.execute(statement)
            conn.execute(
                "UPDATE public.documents t SET (embedding_v2, embedding_v2_model, embedding_v2_source) ="
                " ROW(s.embedding, s.model, s.source) FROM public.documents_embedding_v2 s WHERE s.id = t.id"
            )
        else:
            folding.REST = 0.0
            folding.Folding(conn, migration, threading.Event(), lambda _: None).copy()
        took = time.monotonic() - began
        conn.execute("SELECT pg_stat_force_next_flush()")
    time.sleep(1.0)
    with psycopg.connect(dsn) as look:
        after = look.execute(_COUNTERS).fetchone()
    assert before is not None and after is not None
    updates, hot = after[0] - before[0], after[1] - before[1]
    heap = " to ".join(f"{size / 1e6:.1f}" for size in (before[2], after[2]))
    return f"{rows / took:7,.0f} rows/s, HOT {100 * hot / updates:3.0f} %, heap {heap} MB"


_COUNTERS = (
    "SELECT n_tup_upd, n_tup_hot_upd, pg_relation_size(relid) FROM pg_stat_user_tables WHERE relname = 'documents'"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="of each way, with and without an archive")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--writes", type=float, default=50.0, help="of the application, a second")
    parser.add_argument("--copy", type=int, default=0, help="rows of a copy alone")
    options = parser.parse_args()
    print(machine())
    if options.copy:
        with database() as server:
            for plain in (True, False):
                print(
                    "one UPDATE " if plain else "the fold's  ", copying(fresh(server, "app"), options.copy, plain=plain)
                )
        return
    seconds, slowest = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    problems: list[str] = []
    written = checked = 0
    tried = Counter[str]()
    ways = [*itertools.product(options.ways.split(","), (None, "old_vectors"))]
    with database() as server:
        for number, (way, archive) in enumerate(ways * options.times):
            name = f"{way}, {'archive' if archive else 'no archive'}"
            # another library for a way at each time
            kind = (None, *KINDS)[(number + number // len(ways)) % (len(KINDS) + 1)] if way != "kept" else None
            layout = layout_of(kind) if kind is not None else DOCUMENTS
            dsn = fresh(server, f"app_{number}")
            with soaking(dsn, placement=WAYS[way][0], rows=options.rows, rate=options.writes, layout=layout) as at:
                time.sleep(1.0)
                took, failure = clean_up(at, way, archive)
                time.sleep(0.5)
            seconds[name].append(took)
            slowest[name].append(at.busy.slowest)
            found = [failure] if failure else []
            found += [f"application: {each}" for each in at.busy.failures[:3]]
            if not failure:
                rows = at.busy.check("documents_embedding_v2" if way == "kept" else "")
                written, checked = written + at.busy.writes, checked + rows["rows"]
                found += [f"{what}: {rows[what]}" for what in ("wrong", "missing") if rows[what]]
                found += after_cleanup(dsn, kind) if kind is not None else routed(dsn)
                if archive:
                    kept, keys = archived(dsn, layout.key)
                    found += [f"archive {kept}, {keys}"] if kept != keys or kept < options.rows else []
            made_by = kind.__name__ if kind is not None else "SQL"
            problems += [f"{number} {name}, {made_by}: {each}" for each in found]
            print(f"{number + 1:>3} {name:<28} {made_by:<16}{took:5.1f} s{'  PROBLEM' * bool(found)}", flush=True)
            tried[made_by] += 1
    print(f"\n{'':<28} {'seconds: median, p95 (min–max)':<32} longest write of the application")
    for name, each in seconds.items():
        p95 = sorted(each)[math.ceil(0.95 * len(each)) - 1]
        shown = f"{statistics.median(each):.1f}, {p95:.1f} ({min(each):.1f}–{max(each):.1f})"
        print(f"{name:<28} {shown:<32} {max(slowest[name]) * 1000:.0f} ms")
    print(f"{tried.total()} cleanups, {written:,} writes, {checked:,} rows checked, {len(problems)} problems")
    print("tables made by: " + ", ".join(f"{who} {count}" for who, count in tried.items()))
    for problem in problems:
        print(f"PROBLEM: {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
