"""A search service with FastAPI and asyncio: one AsyncRouter for the process, one route per request.

DATABASE_URL=postgresql://… OPENAI_API_KEY=… fastapi run examples/fastapi_app.py
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import psycopg
from fastapi import FastAPI

from embedtui import AsyncRouter


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Follow the route for as long as the service runs."""
    dsn = os.environ["DATABASE_URL"]
    async with AsyncRouter(dsn, application_name="fastapi") as router, openai.AsyncOpenAI() as client:
        app.state.dsn, app.state.router, app.state.client = dsn, router, client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/search")
async def search(q: str, user: str | None = None) -> dict[str, Any]:
    """The five best documents, and which model answered."""
    route = app.state.router.route("documents", key=user)
    reply = await app.state.client.embeddings.create(
        model=route.model, input=route.query_prefix + q, dimensions=route.requested_dimensions or openai.omit
    )
    # A service under load takes its connections from psycopg_pool.AsyncConnectionPool.
    async with await psycopg.AsyncConnection.connect(app.state.dsn, autocommit=True) as conn:
        hits = await route.search(conn, reply.data[0].embedding, k=5, columns=["content"])
    return {"model": route.model, "hits": [{"key": hit.key, "content": hit.values["content"]} for hit in hits]}


@app.get("/health")
async def health() -> dict[str, Any]:
    """Whether the route is fresh: a lost connection keeps the last known one."""
    status = app.state.router.status
    return {"route_fresh": status.connected, "detail": status.detail, "epochs": status.epochs}
