"""A LangChain PGVector that is moved to another model and back without a restart.

DATABASE_URL=postgresql://… OPENAI_API_KEY=… python examples/langchain_app.py "how are files split?"

The migration was begun with ``embedtui run --table langchain_pg_embedding --content document --name documents --view``.
"""

from __future__ import annotations

import os
import sys

import openai
import psycopg
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_postgres import PGVector
from sqlalchemy import create_engine

from embedtui import Router
from embedtui.integrations import Routing
from embedtui.integrations.langchain import RoutedEmbeddings
from embedtui.integrations.sqlalchemy import follow
from embedtui.router import Route


class OpenAI(Embeddings):
    """As OpenAIEmbeddings of langchain-openai, without it."""

    def __init__(self, client: openai.OpenAI, route: Route) -> None:
        self.client, self.model, self.dimensions = client, route.model, route.requested_dimensions or openai.omit

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        reply = self.client.embeddings.create(model=self.model, input=texts, dimensions=self.dimensions)
        return [each.embedding for each in reply.data]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def make_store(routing: Routing, client: openai.OpenAI, dsn: str) -> PGVector:
    """The application's own store; three lines of it are new: the routing, `follow`, and RoutedEmbeddings."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    follow(engine, routing)
    embeddings = RoutedEmbeddings(routing, lambda route: OpenAI(client, route))
    return PGVector(embeddings, connection=engine, collection_name="docs", create_extension=False)


def search(store: PGVector, routing: Routing, question: str, user: str | None = None) -> list[Document]:
    """The five best documents; the block keeps a user on one side of a canary."""
    with routing.use(key=user):
        return store.similarity_search(question, k=5)


def main() -> None:
    """Answer the question given on the command line."""
    dsn = os.environ["DATABASE_URL"]
    with Router(dsn, application_name="langchain") as router, openai.OpenAI() as client:
        routing = Routing(router, "documents")
        for document in search(make_store(routing, client, dsn), routing, sys.argv[1]):
            print(document.page_content)  # noqa: T201


if __name__ == "__main__":
    main()
