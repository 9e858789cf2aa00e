"""LangGraph: a store whose every batch goes by one route, the model and the vectors together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

from langgraph.store.base import BaseStore, Op, PutOp, Result

from embedtui.integrations import langchain
from embedtui.integrations.routing import Routing, move

_asking: ContextVar[bool] = ContextVar("embedtui_asking", default=False)


class RoutedEmbeddings(langchain.RoutedEmbeddings):
    """As LangChain's; questions, which LangGraph has embedded as documents, are embedded as questions."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of texts to store, or of a search's questions."""
        if _asking.get():
            return [self.embed_query(text) for text in texts]
        return super().embed_documents(texts)


class RoutedStore(BaseStore):
    """A ``PostgresStore`` that follows the route: ``graph.compile(store=store)``.

    ::

        pool = ConnectionPool(DATABASE_URL, kwargs={"autocommit": True, "row_factory": dict_row})
        index = {"dims": ..., "embed": embeddings, "fields": ["text"]}  # embeddings: RoutedEmbeddings
        store = RoutedStore(routing, pool, lambda conn: PostgresStore(conn, index=index))

    What is read in a batch is read by one route; what is written goes after it, as ever, by one too.
    """

    supports_ttl = True

    def __init__(
        self, routing: Routing, pool: Any, make: Callable[[Any], BaseStore], *, search_path: str = "public"
    ) -> None:
        """Nothing is opened.

        Args:
            routing: whose view has the new vectors.
            pool: a psycopg ``ConnectionPool``.
            make: gives the store of a connection; called for each batch.
            search_path: the application's own.
        """
        self.routing, self._pool, self._make, self._path = routing, pool, make, search_path

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """What the operations give, in their order."""
        whole = list(enumerate(ops))
        found: dict[int, Result] = {}
        for writing in (False, True):
            part = [(place, op) for place, op in whole if isinstance(op, PutOp) is writing]
            if part:
                results = self._batch([op for _, op in part], writing)
                found |= dict(zip((place for place, _ in part), results, strict=True))
        return [found[place] for place, _ in whole]

    def _batch(self, ops: list[Op], writing: bool) -> list[Result]:
        asking = _asking.set(not writing)
        try:
            with self.routing.whole(documents=writing), self._pool.connection() as conn:
                move([self.routing], self._path, lambda query: conn.execute(query).fetchone())
                return list(self._make(conn).batch(ops))
        finally:
            _asking.reset(asking)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As :meth:`batch`, in a thread."""
        return await asyncio.to_thread(self.batch, list(ops))
