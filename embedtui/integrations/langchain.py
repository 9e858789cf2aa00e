"""LangChain: embeddings of the model that serves, with the route kept for the statements of the vector store."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from embedtui.integrations.routing import Routing
from embedtui.model import Side
from embedtui.router.route import RouteFields


class RoutedEmbeddings(Embeddings):
    """Asks the Router which model serves, and has that one embed.

    ::

        engine = create_engine(DATABASE_URL)
        follow(engine, routing)                      # embedtui.integrations.sqlalchemy
        embeddings = RoutedEmbeddings(routing, lambda route: OpenAIEmbeddings(model=route.model, dimensions=route.requested_dimensions))
        store = PGVector(embeddings, connection=engine, collection_name="docs")

    A ``PGVectorStore`` names its schema itself: :class:`RoutedStore` makes one for each side.
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


class RoutedStore(VectorStore):
    """A store for each side, of one that names its schema itself; every call takes the one of its route.

    ::

        store = RoutedStore(
            routing, lambda schema: PGVectorStore.create_sync(engine, embeddings, "documents", schema_name=schema)
        )

    One call is one route, by which ``embeddings``, a :class:`RoutedEmbeddings`, goes too; ``with routing.use():``
    around several keeps them together. Sync and async methods as the store has them.
    """

    def __init__(self, routing: Routing, make: Callable[[str], VectorStore], *, schema: str = "public") -> None:
        """``make`` gives the store of a schema: ``schema``, the table's own, or the routed view's."""
        self.routing = routing
        self._make, self._lock = make, threading.Lock()
        self._old = make(schema)
        self._new = make(routing.schema) if routing.viewed else None

    def _store(self) -> VectorStore:
        """That of this context's route."""
        if self.routing.route.side is Side.OLD:
            return self._old
        with self._lock:
            if self._new is None:
                self._new = self._make(self.routing.schema)
            return self._new

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name in _OWN:
            return super().__getattribute__(name)
        routing = self.routing
        found = getattr(self._old, name)
        if not callable(found):
            return found
        documents = name.startswith(("add_", "aadd_"))

        # a coroutine function has to stay one: LangChain asks
        if inspect.iscoroutinefunction(found):

            async def later(*arguments: Any, **options: Any) -> Any:
                with routing.whole(documents=documents):
                    return await getattr(self._store(), name)(*arguments, **options)

            return functools.wraps(found)(later)

        def now(*arguments: Any, **options: Any) -> Any:
            with routing.whole(documents=documents):
                return getattr(self._store(), name)(*arguments, **options)

        return functools.wraps(found)(now)

    # what VectorStore wants of every class; never reached

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Any]:
        """Documents most like a question."""
        raise NotImplementedError

    @classmethod
    def from_texts(cls, *_: Any, **__: Any) -> RoutedStore:
        """Refused: make the table by the store itself."""
        raise NotImplementedError


_OWN = ("routing", "as_retriever", "from_texts", "from_documents", "afrom_texts", "afrom_documents")
"""What is not passed on: a retriever keeps the store that it was made of."""
