"""LlamaIndex: an embedding of the model that serves, and a vector store that goes where its vectors belong.

::

    embed_model = RoutedEmbedding(routing, lambda route: OpenAIEmbedding(model=route.model, …))
    store = RoutedVectorStore(routing, lambda schema: PGVectorStore.from_params(…, schema_name=schema))
    index = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult
from pydantic import PrivateAttr

from embedtui.errors import SettingsError
from embedtui.integrations.routing import Routing
from embedtui.model import Side
from embedtui.router.route import RouteFields


class RoutedEmbedding(BaseEmbedding):
    """Asks the Router which model serves, and has that one embed; ``make`` is called once for each model."""

    _routing: Routing = PrivateAttr()
    _make: Callable[[RouteFields], BaseEmbedding] = PrivateAttr()
    _made: dict[int, BaseEmbedding] = PrivateAttr(default_factory=dict)

    def __init__(self, routing: Routing, make: Callable[[RouteFields], BaseEmbedding], **options: Any) -> None:
        if options.get("embeddings_cache") is not None:
            raise SettingsError(
                "A cache of embeddings knows no models: it would give one model's vectors for another's.",
                hint="Give each model's own embedding its cache.",
            )
        super().__init__(**options)
        self._routing, self._make = routing, make

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex serialises it."""
        return "RoutedEmbedding"

    def _of(self, route: RouteFields) -> BaseEmbedding:
        return self._made.setdefault(route.model_id, self._made.get(route.model_id) or self._make(route))

    def _checked(self, route: RouteFields, vectors: list[Any]) -> list[list[float]]:
        return [self._routing.fit(route, vector) for vector in vectors]

    def _get_query_embedding(self, query: str) -> list[float]:
        route = self._routing.take()
        return self._checked(route, [self._of(route).get_query_embedding(route.query_prefix + query)])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        route = self._routing.take(documents=True)
        prefixed = [route.document_prefix + text for text in texts]
        return self._checked(route, self._of(route).get_text_embedding_batch(prefixed))

    # several batches of one call, and several texts of one question, are of one model

    def get_text_embedding_batch(self, *arguments: Any, **options: Any) -> list[list[float]]:
        """Vectors of texts to store."""
        with self._routing.whole(documents=True):
            return super().get_text_embedding_batch(*arguments, **options)  # type: ignore[no-any-return]

    async def aget_text_embedding_batch(self, *arguments: Any, **options: Any) -> list[list[float]]:
        """As :meth:`get_text_embedding_batch`, for asyncio."""
        with self._routing.whole(documents=True):
            return await super().aget_text_embedding_batch(*arguments, **options)  # type: ignore[no-any-return]

    def get_agg_embedding_from_queries(self, *arguments: Any, **options: Any) -> list[float]:
        """Vector of a question that is asked in several ways."""
        with self._routing.whole():
            return super().get_agg_embedding_from_queries(*arguments, **options)  # type: ignore[no-any-return]

    async def aget_agg_embedding_from_queries(self, *arguments: Any, **options: Any) -> list[float]:
        """As :meth:`get_agg_embedding_from_queries`, for asyncio."""
        with self._routing.whole():
            return await super().aget_agg_embedding_from_queries(*arguments, **options)  # type: ignore[no-any-return]

    # the route is taken here and not in an executor's thread, whose context nobody else sees

    async def _aget_query_embedding(self, query: str) -> list[float]:
        route = self._routing.take()
        return self._checked(route, [await self._of(route).aget_query_embedding(route.query_prefix + query)])[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        route = self._routing.take(documents=True)
        prefixed = [route.document_prefix + text for text in texts]
        return self._checked(route, await self._of(route).aget_text_embedding_batch(prefixed))


class RoutedVectorStore(BasePydanticVectorStore):
    """A store for each side, of one that names its schema itself; takes that of the vectors embedded last."""

    stores_text: bool = True
    _routing: Routing = PrivateAttr()
    _old: BasePydanticVectorStore = PrivateAttr()
    _new: BasePydanticVectorStore | None = PrivateAttr()
    _make: Callable[[str], BasePydanticVectorStore] = PrivateAttr()

    def __init__(
        self,
        routing: Routing,
        make: Callable[[str], BasePydanticVectorStore],
        *,
        schema: str = "public",
        **options: Any,
    ) -> None:
        """``make`` gives the store whose table is in a schema: ``schema``, the table's own, or the routed view's.

        It is to set nothing up (``perform_setup=False``) in the latter, which is a view.
        """
        old = make(schema)
        super().__init__(stores_text=old.stores_text, is_embedding_query=old.is_embedding_query, **options)
        self._routing, self._old, self._make = routing, old, make
        self._new = make(routing.schema) if routing.viewed else None

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex serialises it."""
        return "RoutedVectorStore"

    @property
    def _now(self) -> BasePydanticVectorStore:
        if self._routing.route.side is Side.OLD:
            return self._old
        self._new = self._new or self._make(self._routing.schema)
        return self._new

    @property
    def client(self) -> Any:
        """That of the side."""
        return self._now.client

    def add(self, nodes: Any, **options: Any) -> list[str]:
        """Store embedded nodes."""
        return self._now.add(nodes, **options)  # type: ignore[no-any-return]

    async def async_add(self, nodes: Any, **options: Any) -> list[str]:
        """As :meth:`add`, for asyncio."""
        return await self._now.async_add(nodes, **options)  # type: ignore[no-any-return]

    def query(self, query: VectorStoreQuery, **options: Any) -> VectorStoreQueryResult:
        """Search by an embedded question."""
        return self._now.query(query, **options)

    async def aquery(self, query: VectorStoreQuery, **options: Any) -> VectorStoreQueryResult:
        """As :meth:`query`, for asyncio."""
        return await self._now.aquery(query, **options)

    # rows are the same on either side; what a whole table is emptied by goes to the table

    def delete(self, ref_doc_id: str, **options: Any) -> None:
        """Delete a document's nodes."""
        self._old.delete(ref_doc_id, **options)

    async def adelete(self, ref_doc_id: str, **options: Any) -> None:
        """As :meth:`delete`, for asyncio."""
        await self._old.adelete(ref_doc_id, **options)

    def delete_nodes(self, *arguments: Any, **options: Any) -> None:
        """Delete nodes by ids or metadata."""
        self._old.delete_nodes(*arguments, **options)

    async def adelete_nodes(self, *arguments: Any, **options: Any) -> None:
        """As :meth:`delete_nodes`, for asyncio."""
        await self._old.adelete_nodes(*arguments, **options)

    def get_nodes(self, *arguments: Any, **options: Any) -> Any:
        """Nodes by ids or metadata."""
        return self._now.get_nodes(*arguments, **options)

    async def aget_nodes(self, *arguments: Any, **options: Any) -> Any:
        """As :meth:`get_nodes`, for asyncio."""
        return await self._now.aget_nodes(*arguments, **options)

    def clear(self) -> None:
        """Delete all nodes."""
        self._old.clear()

    async def aclear(self) -> None:
        """As :meth:`clear`, for asyncio."""
        await self._old.aclear()
