"""Whose schema ``embedtui`` a role works in: by what the catalog says of its owner."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from embedtui.demo.database import EmbeddedServer
from embedtui.errors import DatabaseError
from embedtui.postgres.connect import connect

TABLE = "CREATE TABLE public.documents (id bigint, embedding public.vector(3))"
OWN = f"{TABLE}; ALTER TABLE public.documents OWNER TO maker"
PLANT = "CREATE TABLE public.planted (v public.vector(3)); ALTER TABLE public.planted OWNER TO maker"
"""By what is set up beside the schema, which role ``maker`` made: whether role ``visitor`` works in it."""
CASES = {
    "a stranger made it": ((TABLE, "GRANT ALL ON public.documents TO visitor"), False),
    "a stranger with a table of his own": ((TABLE, PLANT), False),
    "and for everybody's use": ((TABLE, PLANT, "GRANT USAGE ON SCHEMA embedtui TO PUBLIC"), False),
    "the table's owner, some columns of it": ((OWN, "GRANT SELECT (id) ON documents TO visitor"), True),
    "the table's owner, all of it": ((OWN, "GRANT SELECT ON documents TO visitor"), True),
    "a member of the owner": (
        ("CREATE ROLE other", TABLE, "ALTER TABLE documents OWNER TO other", "GRANT other TO maker",
         "GRANT SELECT (id) ON documents TO visitor"), True),
    "the table's owner, the schema by name": ((OWN, "GRANT USAGE ON SCHEMA embedtui TO visitor"), True),
    "the same through a group": (
        (OWN, "CREATE ROLE other; GRANT other TO visitor; GRANT USAGE ON SCHEMA embedtui TO other"), True),
    "the schema by name, of one without a table": ((TABLE, "GRANT USAGE ON SCHEMA embedtui TO visitor"), False),
    "the visitor's table, by one who has its rights": (
        (TABLE, "ALTER TABLE documents OWNER TO visitor", "GRANT visitor TO maker"), True),
    "a role it is a member of": ((TABLE, "GRANT maker TO visitor"), True),
    "somebody before the operator": (
        (TABLE, "ALTER TABLE documents OWNER TO visitor", PLANT, "GRANT ALL ON planted, documents TO visitor",
         "GRANT USAGE ON SCHEMA embedtui TO visitor", "GRANT CREATE ON DATABASE {database} TO visitor"), False),
    "a superuser": ((TABLE, "ALTER SCHEMA embedtui OWNER TO postgres"), True),
    "for a superuser, the table's owner": (
        (OWN, "GRANT SELECT ON documents TO visitor", "ALTER ROLE visitor SUPERUSER"), False),
    "for a superuser, one that it is a member of": (
        (OWN, "GRANT maker TO visitor", "ALTER ROLE visitor SUPERUSER"), False),
}  # fmt: skip


@pytest.fixture
def visited(server: EmbeddedServer, database: str) -> Iterator[tuple[psycopg.Connection, str]]:
    """An administrator's connection to a database with a schema of role ``maker``, and the DSN of role ``visitor``."""
    with psycopg.connect(database, autocommit=True, options="-c search_path=pg_catalog,public") as admin:
        admin.execute("CREATE ROLE maker; CREATE ROLE visitor LOGIN; CREATE SCHEMA embedtui AUTHORIZATION maker")
        yield admin, server.dsn(admin.info.dbname, "visitor")
        admin.execute("ALTER ROLE visitor NOSUPERUSER; DROP OWNED BY maker, visitor; DROP ROLE maker, visitor")
        admin.execute("DROP OWNED BY other CASCADE; DROP ROLE other" if _is_there(admin, "other") else "SELECT")


def _is_there(admin: psycopg.Connection, role: str) -> bool:
    return admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount == 1


@pytest.mark.parametrize("case", CASES)
def test_whose_schema_a_role_works_in(visited: tuple[psycopg.Connection, str], case: str) -> None:
    admin, dsn = visited
    statements, works = CASES[case]
    for statement in statements:
        admin.execute(statement.format(database=admin.info.dbname))  # type: ignore[arg-type]
    if works:
        connect(dsn, name="test").close()
        admin.execute(PLANT.replace("maker", "postgres"))
        admin.execute("GRANT ALL ON public.planted TO visitor, PUBLIC")
        connect(dsn, name="test").close()  # nor is it kept out by a table that somebody grants it
    else:
        with pytest.raises(DatabaseError, match="belongs to role maker"):
            connect(dsn, name="test")
