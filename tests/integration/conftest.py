"""Connections that integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedtui.demo.database import EmbeddedServer
from embedtui.postgres.connect import Connection
from tests.kits.support import connect
from tests.kits.tables import DOCUMENTS, MY_DOCS


@pytest.fixture(scope="module")
def known(server: EmbeddedServer) -> Iterator[Connection]:
    """A database whose tables no test changes."""
    with connect(server.dsn(), name="test") as admin:
        admin.execute("CREATE DATABASE discover")
        with connect(server.dsn("discover"), name="test") as connection:
            connection.execute(
                "CREATE EXTENSION vector;" + DOCUMENTS + MY_DOCS + "ALTER TABLE documents ADD title text;"
                'CREATE TABLE "a.b" (id int); CREATE VIEW recent AS SELECT * FROM documents;'
                "CREATE TABLE nokey (id int, content text, v vector(3));"
                "CREATE TABLE novector (id int PRIMARY KEY, content text);"
                "CREATE TABLE notext (id int PRIMARY KEY, v vector(3));"
                "CREATE TABLE two (id int PRIMARY KEY, content text, v vector(3), w vector(3))"
            )
            yield connection
        admin.execute("DROP DATABASE discover WITH (FORCE)")


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    with connect(database, name="test") as connection:
        yield connection
