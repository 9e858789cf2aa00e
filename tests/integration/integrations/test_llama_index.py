"""LlamaIndex's embedding follows the route, and `choose` takes the store of its side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embedtui.demo.api import LoopbackServer
from embedtui.errors import Refused
from embedtui.integrations import Routing
from tests.integration.integrations.test_follow import MODELS, Site

pytest.importorskip("llama_index.core")


async def test_it_embeds_by_the_route_and_refuses_another_size(database: str, tmp_path: Path) -> None:
    from llama_index.core.embeddings import MockEmbedding
    from llama_index.core.embeddings.utils import BaseEmbedding

    from embedtui.integrations.llama_index import RoutedEmbedding

    class OfModel(MockEmbedding):
        def _get_vector(self) -> list[float]:
            return [1.0] * self.embed_dim

    made: list[str] = []

    def make(route: Any) -> BaseEmbedding:
        made.append(route.model)
        return OfModel(embed_dim=route.dimensions)

    with LoopbackServer(MODELS) as api:
        site = Site(database, api, tmp_path)
        embedding = RoutedEmbedding(site.routing, make)
        stores = ("old store", "new store")
        assert embedding.get_query_embedding("q") == [1.0] * 8
        assert site.routing.choose(*stores) == "old store"
        site.flip()
        assert site.routing.choose(*stores) == "old store"  # its vector was made before the flip
        assert await embedding.aget_text_embedding("t") == [1.0] * 8
        assert site.routing.choose(*stores) == "new store"
        assert len(await embedding.aget_text_embedding_batch(["a", "b"])) == 2
        assert made == [route.model for route in (site.router.route("documents", model=m) for m in MODELS)]
        wrong = RoutedEmbedding(Routing(site.router, "documents"), lambda _: OfModel(embed_dim=5))
        with pytest.raises(Refused, match="makes 8 dimensions"):
            wrong.get_text_embedding("t")
        site.close()
