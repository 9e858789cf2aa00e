"""Requests in flight over a cleanup or an exchange of names: a statement that meets a changed name is run once more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import errors

T = TypeVar("T")

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

RENAMED = (errors.UndefinedColumn, errors.UndefinedTable)
"""What a statement with names of before a cleanup, or an exchange of names, may end with."""


def repeatable(conn: AnyConnection) -> bool:
    """Whether a failed statement can be repeated at all: in a pipeline its error comes too late."""
    return conn.pgconn.pipeline_status == psycopg.pq.PipelineStatus.OFF


def _in_transaction(conn: AnyConnection) -> bool:
    return conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def attempt(conn: psycopg.Connection[Any], work: Callable[[], T]) -> T:
    """Run ``work``; where it meets a changed name, the caller's transaction is as it was before."""
    if not repeatable(conn):
        return work()
    if _in_transaction(conn):
        with conn.transaction():  # a savepoint
            return work()
    try:
        return work()
    except RENAMED:
        if not conn.autocommit:
            conn.rollback()  # begun by this statement alone
        raise


async def attempt_async(conn: psycopg.AsyncConnection[Any], work: Callable[[], Awaitable[T]]) -> T:
    """As :func:`attempt`."""
    if not repeatable(conn):
        return await work()
    if _in_transaction(conn):
        async with conn.transaction():
            return await work()
    try:
        return await work()
    except RENAMED:
        if not conn.autocommit:
            await conn.rollback()
        raise
