"""Tables that real libraries made, for ``benchmarks/cleanup.py``: psycopg writes to them, and the library again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from uuid import UUID

import numpy as np
import openai
import psycopg

from embedtui.demo.api import LoopbackServer, hash_model
from embedtui.engine.plan.presets.frameworks import LLAMA_INDEX_TEXT
from embedtui.integrations import Routing
from embedtui.router import Router
from tests.kits.applications import SIZE, TEXTS, Application, installed
from tests.kits.busy import MODEL, Layout
from tests.kits.library_applications import Django, LangChain, LangChainStore, LlamaIndex, SqlAlchemy
from tests.kits.support import NEW

KINDS: Sequence[type[Application]] = [
    kind for kind in (LangChain, LangChainStore, LlamaIndex, SqlAlchemy, Django) if not installed(kind)
]
"""Those that are installed."""

OLD_MODEL = hash_model(SIZE, "old")
"""Of the new one's size: a mix would raise no error."""

_UUID = {"new_key": lambda number: str(UUID(int=number))}
_NAMES: dict[type[Application], dict[str, object]] = {
    LangChain: {
        "others": {"collection_id": "(SELECT uuid FROM langchain_pg_collection)", "cmetadata": '\'{"lang": "en"}\''}
    },
    LangChainStore: {"key": "langchain_id", "others": {"langchain_metadata": "'{}'"}, **_UUID},
    LlamaIndex: {"others": {"metadata_": "'{}'"}},
}


def layout_of(kind: type[Application]) -> Layout:
    """The library's table, with texts that it embedded itself, and as many more as are asked for."""

    def make(dsn: str, rows: int, _index: bool) -> None:
        kind.seed(dsn, lambda texts: OLD_MODEL(texts, None).tolist())
        with psycopg.connect(dsn) as conn:
            conn.execute(f"ALTER TABLE {kind.table} ADD written timestamptz DEFAULT now()")
            if kind is LlamaIndex:
                conn.execute(LLAMA_INDEX_TEXT.replace("{schema}", "public"))
            more = [f"document number {number}" for number in range(len(TEXTS) + 1, rows + 1)]
            insert = replace(layout, others={**layout.others, layout.vector: "%(vector)s"}).insert
            values = [
                {"key": layout.new_key(number), "text": text, "vector": str(vector)}
                for number, (text, vector) in enumerate(zip(more, OLD_MODEL(more, None).tolist(), strict=True), 10**4)
            ]
            conn.cursor().executemany(insert, values)

    flags: dict[str, object] = {"table": kind.table, "name": "documents", "view": True, "content": [kind.content]}
    if kind is LlamaIndex:
        del flags["content"]
        flags["content_sql"] = "public.llama_index_text(text, metadata_::json)"
    names = {"table": kind.table, "content": kind.content, "vector": kind.vector, **_NAMES.get(kind, {})}
    layout = Layout(make, old=OLD_MODEL, flags=flags, **names)  # type: ignore[arg-type]
    return layout


def after_cleanup(dsn: str, kind: type[Application]) -> list[str]:
    """What is wrong for the library after it, alone and by its integration: each adds a text, and finds it."""
    wrong, layout = [], layout_of(kind)
    with LoopbackServer({NEW: MODEL}) as api, openai.OpenAI(base_url=api.base_url, api_key=api.key) as client:
        for how in ("alone", "routed"):
            text = f"added {how} after the cleanup"
            try:
                with Router(dsn) as router:
                    routing = Routing(router, "documents") if how == "routed" else None
                    with closing(kind(dsn, routing, client)) as application:
                        application.add(text)
                        found, distance = application.nearest(text)
                        application.leave()
                if found != text or distance > 1e-4:
                    wrong.append(f"{how}: {text!r} finds {found!r} at {distance}")
            except Exception as error:
                wrong.append(f"{how}: {type(error).__name__}: {error}"[:300])
                continue
            with psycopg.connect(dsn) as conn:
                query = f"SELECT {layout.vector}::real[] FROM {layout.table} WHERE {layout.content} = %s"
                rows = conn.execute(query, [text]).fetchall()
            if len(rows) != 1 or not np.allclose(rows[0][0], MODEL([text], None)[0], atol=1e-5):
                wrong.append(f"{how}: stored are {rows}")
    return wrong
