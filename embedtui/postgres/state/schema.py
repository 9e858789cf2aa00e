"""The schema ``embedtui``: its own versioned migrations, applied under a lock."""

from __future__ import annotations

from importlib import resources

import psycopg
from psycopg import sql

from embedtui.errors import DatabaseError
from embedtui.postgres.connect import Connection
from embedtui.postgres.locks import lock_schema
from embedtui.postgres.trust import require_trusted_objects

VERSION = 10


def installed_version(conn: Connection) -> int:
    """Version of the schema in this database; 0 where there is none."""
    row = conn.execute("SELECT to_regclass('embedtui.schema_version') IS NOT NULL").fetchone()
    assert row is not None
    if not row[0]:
        return 0
    row = conn.execute("SELECT coalesce(max(version), 0) FROM embedtui.schema_version").fetchone()
    assert row is not None
    return int(row[0])


def require_current(conn: Connection) -> bool:
    """Whether there is a schema at all.

    Raises:
        DatabaseError: it is that of an older or a newer program.
    """
    version = installed_version(conn)
    if version in (0, VERSION):
        return version == VERSION
    if version > VERSION:
        hint = "Upgrade embedtui."
    else:
        hint = (
            "Stop what runs with the older program; the next `embedtui run`, as the owner of the schema, upgrades it."
        )
    raise DatabaseError(f"Schema embedtui is version {version}, this program knows {VERSION}.", hint=hint)


def install(conn: Connection) -> None:
    """Create or upgrade the schema ``embedtui`` in one transaction; a no-op where it is current.

    Raises:
        DatabaseError: the schema is newer than this program, or belongs to something or somebody else.
    """
    version = installed_version(conn)
    if version >= VERSION:
        require_current(conn)
        return
    try:
        _upgrade(conn, version)
    except psycopg.errors.InsufficientPrivilege:
        require_current(conn)  # to a worker's role it is said who upgrades it
        raise


def _upgrade(conn: Connection, version: int) -> None:
    with conn.transaction():
        lock_schema(conn)
        if installed_version(conn) == VERSION:  # another process was first
            return
        require_trusted_objects(conn)
        if conn.execute("SELECT to_regnamespace('embedtui')").fetchone() == (None,):
            conn.execute("CREATE SCHEMA embedtui")  # not IF NOT EXISTS: it would be whoever's was faster
        conn.execute(
            "CREATE TABLE IF NOT EXISTS embedtui.schema_version"
            " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for number in range(version + 1, VERSION + 1):
            text = resources.files("embedtui.postgres.state").joinpath(f"{number:04d}.sql").read_text("utf-8")
            try:
                conn.execute(sql.SQL(text))
            except psycopg.errors.DuplicateTable as error:
                raise DatabaseError(
                    f"Schema embedtui holds something else: {error.diag.message_primary}.",
                    hint="Rename or drop that schema.",
                ) from None
            conn.execute("INSERT INTO embedtui.schema_version (version) VALUES (%s)", [number])
