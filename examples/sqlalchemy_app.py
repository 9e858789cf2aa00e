"""A search service with SQLAlchemy: the Router gives plain SQL text, SQLAlchemy runs it.

DATABASE_URL=postgresql://… OPENAI_API_KEY=… python examples/sqlalchemy_app.py "how are files split?" en
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import openai
import psycopg
from sqlalchemy import Engine, Row, create_engine, text
from sqlalchemy.orm import Session

from embedtui import Router


def make_engine(dsn: str) -> Engine:
    """An engine over psycopg that takes any libpq connection string."""
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))


def search(router: Router, session: Session, client: openai.OpenAI, question: str, lang: str) -> Sequence[Row[Any]]:
    """Key, distance and content of the five best documents in a language."""
    route = router.route("documents")
    reply = client.embeddings.create(
        model=route.model, input=route.query_prefix + question, dimensions=route.requested_dimensions or openai.omit
    )
    statement = text(route.search_sql(columns=["content"], where="lang = :lang"))
    return session.execute(statement, {"vector": route.bind(reply.data[0].embedding), "k": 5, "lang": lang}).all()


def main() -> None:
    """Answer the question given on the command line."""
    dsn = os.environ["DATABASE_URL"]
    engine = make_engine(dsn)
    with Router(dsn, application_name="sqlalchemy") as router, Session(engine) as session, openai.OpenAI() as client:
        for row in search(router, session, client, sys.argv[1], sys.argv[2]):
            print(f"{row.distance:.3f}  {row.key[0]}  {row.content}")  # noqa: T201
    engine.dispose()


if __name__ == "__main__":
    main()
