"""LangChain: embeddings of the model that serves, with the route kept for the statements of the vector store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from langchain_core.embeddings import Embeddings

from embedtui.integrations.routing import Routing
from embedtui.router.route import RouteFields


class RoutedEmbeddings(Embeddings):
    """Asks the Router which model serves, and has that one embed.

    ::

        engine = create_engine(DATABASE_URL)
        follow(engine, routing)                      # embedtui.integrations.sqlalchemy
        embeddings = RoutedEmbeddings(routing, lambda route: OpenAIEmbeddings(model=route.model, dimensions=route.dimensions))
        store = PGVector(embeddings, connection=engine, collection_name="docs")

    A ``PGVectorStore`` names its schema itself: make one for each side, and take
    ``routing.choose(old_store, new_store)`` inside ``with routing.use():``.
    """  # noqa: E501 (ready to copy)

    def __init__(self, routing: Routing, make: Callable[[RouteFields], Embeddings]) -> None:
        """``make`` gives the embeddings of a route's model; called once for each model."""
        self.routing = routing
        self._make = make
        self._made: dict[int, Embeddings] = {}
        self._lock = threading.Lock()

    def _of(self, route: RouteFields) -> Embeddings:
        with self._lock:
            if route.model_id not in self._made:
                self._made[route.model_id] = self._make(route)
            return self._made[route.model_id]

    def _checked(self, route: RouteFields, vectors: list[Any]) -> list[list[float]]:
        return [self.routing.fit(route, vector) for vector in vectors]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of texts to store."""
        route = self.routing.take(documents=True)
        prefixed = [route.document_prefix + text for text in texts]
        return self._checked(route, self._of(route).embed_documents(prefixed))

    def embed_query(self, text: str) -> list[float]:
        """Vector of a question."""
        route = self.routing.take()
        [vector] = self._checked(route, [self._of(route).embed_query(route.query_prefix + text)])
        return vector

    # the route is taken here and not in the executor's thread, whose context the store would not see

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As :meth:`embed_documents`, for asyncio."""
        route = self.routing.take(documents=True)
        prefixed = [route.document_prefix + text for text in texts]
        return self._checked(route, await self._of(route).aembed_documents(prefixed))

    async def aembed_query(self, text: str) -> list[float]:
        """As :meth:`embed_query`, for asyncio."""
        route = self.routing.take()
        [vector] = self._checked(route, [await self._of(route).aembed_query(route.query_prefix + text)])
        return vector
