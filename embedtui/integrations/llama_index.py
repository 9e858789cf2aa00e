"""LlamaIndex: an embedding of the model that serves. Its PGVectorStore names its schema itself: make one for each side.

::

    embed_model = RoutedEmbedding(routing=routing, make=lambda route: OpenAIEmbedding(model=route.model, …))
    with routing.use(key=user_id):
        index = routing.choose(old_index, new_index)   # schema_name="public" and schema_name="documents_v2"
        nodes = index.as_retriever(similarity_top_k=5).retrieve(question)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from embedtui.integrations.routing import Routing
from embedtui.router.route import RouteFields


class RoutedEmbedding(BaseEmbedding):
    """Asks the Router which model serves, and has that one embed; ``make`` is called once for each model."""

    _routing: Routing = PrivateAttr()
    _make: Callable[[RouteFields], BaseEmbedding] = PrivateAttr()
    _made: dict[int, BaseEmbedding] = PrivateAttr(default_factory=dict)

    def __init__(self, routing: Routing, make: Callable[[RouteFields], BaseEmbedding], **options: Any) -> None:
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

    # the route is taken here and not in an executor's thread, whose context nobody else sees

    async def _aget_query_embedding(self, query: str) -> list[float]:
        route = self._routing.take()
        return self._checked(route, [await self._of(route).aget_query_embedding(route.query_prefix + query)])[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        route = self._routing.take(documents=True)
        prefixed = [route.document_prefix + text for text in texts]
        return self._checked(route, await self._of(route).aget_text_embedding_batch(prefixed))
