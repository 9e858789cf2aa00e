"""Routing for asyncio."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import psycopg

from embedtui.postgres.state.route_side import read_sides_called_async
from embedtui.router.follower import CONNECT_SECONDS, Follower
from embedtui.router.renamed import RENAMED, attempt_async, repeatable
from embedtui.router.route import AsyncRoute, Vector
from embedtui.router.route_snapshot import writing


class AsyncRouter(Follower[AsyncRoute]):
    """As :class:`Router`, for asyncio; ``await open()`` at start-up, or the first :meth:`route` waits for it."""

    _route_class = AsyncRoute

    async def __aenter__(self) -> AsyncRouter:
        """Follow until the end of the block."""
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop following."""
        await self.close()

    async def open(self) -> None:
        """As :meth:`Router.open`."""
        self._start()
        await asyncio.to_thread(self._tried.wait, CONNECT_SECONDS + 1)
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Stop following."""
        await asyncio.to_thread(self._end)

    async def write(
        self,
        conn: psycopg.AsyncConnection[Any],
        name: str,
        key: object,
        vector: Vector,
        *,
        model: str | int,
        content: str | None = None,
    ) -> bool:
        """As :meth:`Router.write`."""
        self.route(name)
        side, values = writing(self._known[name], name, key, vector, model, content)

        async def run(side: AsyncRoute) -> bool:
            return (await conn.execute(side._sql.write(content is not None), values)).rowcount > 0

        try:
            stored = await attempt_async(conn, lambda: run(side))
            if stored or side._sql.attnum is None or not repeatable(conn):
                return stored
            failure = None
        except RENAMED as error:
            failure = error
        now = side._renew(side, await read_sides_called_async(conn, name))
        if now is None:
            if failure is not None:
                raise failure
            return False
        return await run(now)
