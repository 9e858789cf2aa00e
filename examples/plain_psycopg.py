"""A search service with psycopg and the Router: ask for the route, embed with its model, search its side.

    DATABASE_URL=postgresql://… OPENAI_API_KEY=… python examples/plain_psycopg.py "how are files split?"

Nothing here changes at the cutover, and nothing is restarted.
"""

from __future__ import annotations

import os
import sys

import openai
import psycopg

from embedtui import Router
from embedtui.router import Hit, Route

TABLE = "documents"


def embed(client: openai.OpenAI, route: Route, text: str) -> list[float]:
    """A vector of the route's own model."""
    reply = client.embeddings.create(
        model=route.model, input=text, dimensions=route.requested_dimensions or openai.omit
    )
    return reply.data[0].embedding


def search(
    router: Router, conn: psycopg.Connection, client: openai.OpenAI, question: str, user: str | None = None
) -> list[Hit]:
    """The five best documents; one route serves both the embedding and the search."""
    route = router.route(TABLE, key=user)  # the key keeps a user on one side during a canary
    vector = embed(client, route, route.query_prefix + question)
    return route.search(conn, vector, k=5, columns=["content"])


def add(router: Router, conn: psycopg.Connection, client: openai.OpenAI, content: str) -> int:
    """Insert a document with the vector of the side that serves; embedtui sees to the other side."""
    route = router.route(TABLE)
    vector = embed(client, route, route.document_prefix + content)  # before the transaction, not inside of it
    with conn.transaction():
        row = conn.execute(f"INSERT INTO {TABLE} (content) VALUES (%s) RETURNING id", [content]).fetchone()
        assert row is not None
        router.write(conn, TABLE, row[0], vector, model=route.model_id)
    return int(row[0])


def main() -> None:
    """Answer the question given on the command line."""
    dsn = os.environ["DATABASE_URL"]
    with (
        Router(dsn, application_name="plain-psycopg") as router,
        psycopg.connect(dsn, autocommit=True) as conn,
        openai.OpenAI() as client,
    ):
        for hit in search(router, conn, client, sys.argv[1]):
            print(f"{hit.distance:.3f}  {hit.key[0]}  {hit.values['content']}")  # noqa: T201


if __name__ == "__main__":
    main()
