"""Connections: how every one is opened, how its errors are told, and how secrets are kept out of what is told."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import conninfo, errors, sql

from embedtui.errors import DatabaseError, DatabaseLost, EmbedtuiError, LockTimeout, Refused
from embedtui.model import Remedy

APPLICATION = "embedtui"

Connection = psycopg.Connection[Any]

# A dead peer is noticed within about 30 s even while the client only waits; keepalives say nothing while something
# that was sent is not acknowledged, there the time-out does (in milliseconds).
_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}

_DSN_PASSWORD = re.compile(r"(?P<head>\w+://[^\s:/@]*:)[^\s@]*(?=@)")
_DSN_PARAMETER = re.compile(
    r"(?P<head>\b(?:password|sslpassword|passwd|pwd)\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE
)
_KEY = re.compile(r"\b(?:sk|pk|rk|key)-[A-Za-z0-9_\-*]{6,}")
_BEARER = re.compile(r"(?P<head>\bBearer\s+)\S+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def redact(text: str) -> str:
    """``text`` with passwords, API keys and control characters (ANSI escapes, bidi overrides) taken out."""
    text = _DSN_PASSWORD.sub(r"\g<head>***", text)
    text = _DSN_PARAMETER.sub(r"\g<head>***", text)
    text = _KEY.sub("***", text)
    text = _BEARER.sub(r"\g<head>***", text)
    return _CONTROL.sub("", text)


def operator_name() -> str:
    """Who acts, for the audit log: EMBEDTUI_OPERATOR, else the login name."""
    import getpass

    try:
        return os.environ.get("EMBEDTUI_OPERATOR") or getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        return str(os.getuid())


def host_name() -> str:
    """This host's name, for the audit log and the list of workers."""
    return socket.gethostname()


def connect(
    dsn: str,
    *,
    name: str,
    autocommit: bool = True,
    statement_timeout_ms: int = 60_000,
    lock_timeout_ms: int = 5_000,
    connect_timeout: int = 10,
    read_only: bool = False,
) -> Connection:
    """Open a connection named ``embedtui/<name>`` with time-outs and keepalives set.

    Row security is switched off for it, so that hidden rows raise an error and are never silently skipped.

    Raises:
        DatabaseError: unreachable, wrong password, unknown database (hint says the mend).
    """
    try:
        conn: Connection = psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=connect_timeout,
            application_name=f"{APPLICATION}/{name}",
            client_encoding="utf8",
            **_KEEPALIVE,  # type: ignore[arg-type]
        )
    except psycopg.Error as error:
        raise translate(error, dsn=dsn) from None
    try:
        conn.prepare_threshold = 5
        conn.execute(
            "SELECT set_config('statement_timeout', %s, false), set_config('lock_timeout', %s, false),"
            " set_config('idle_in_transaction_session_timeout', '60s', false),"
            " set_config('DateStyle', 'ISO, MDY', false), set_config('IntervalStyle', 'postgres', false),"
            " set_config('row_security', 'off', false), set_config('default_transaction_read_only',"
            # never off: a database that its administrator made read-only stays so
            " CASE WHEN %s THEN 'on' ELSE current_setting('default_transaction_read_only') END, false),"
            # the guards re-read a row that changed meanwhile, which a serializable transaction would not
            " set_config('default_transaction_isolation', 'read committed', false),"
            # the same for the server: what a host that lost its power had locked would stay so for hours
            " set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),"
            " set_config('tcp_keepalives_count', '4', false), set_config('tcp_user_timeout', '30000', false)",
            [f"{statement_timeout_ms}ms", f"{lock_timeout_ms}ms", read_only],
        )
        conn.autocommit = autocommit
    except psycopg.Error as error:
        conn.close()
        raise translate(error, dsn=dsn) from None
    return conn


def lost(error: BaseException) -> bool:
    """Whether ``error`` means that the connection or the server is gone, and trying again later makes sense."""
    if isinstance(error, DatabaseLost):
        return True
    if isinstance(error, (errors.QueryCanceled, errors.LockNotAvailable)):
        return False
    if isinstance(error, psycopg.OperationalError):
        state = error.sqlstate or ""
        # 57P0x: shutdown, crash, starting up; 08: connection; 53: out of connections, memory, disk
        return state == "" or state.startswith(("08", "57P", "53"))
    return isinstance(error, psycopg.InterfaceError)


def exhausted(error: BaseException) -> bool:
    """Whether the server is out of disk or memory: the session itself is well, and its locks tell that we live."""
    return (getattr(error, "sqlstate", None) or "").startswith("53")


def retryable(error: BaseException) -> bool:
    """Whether the same transaction may be tried again as it is: serialization, deadlock, lock time-out, cancelled."""
    return isinstance(
        error,
        errors.SerializationFailure | errors.DeadlockDetected | errors.LockNotAvailable | errors.QueryCanceled,
    )


def _where(dsn: str) -> str:
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        return "the database"
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"{host}{port}"


def _first_line(error: BaseException) -> str:
    diag = getattr(error, "diag", None)
    text = (diag.message_primary if diag is not None else None) or str(error)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return redact(lines[0]) if lines else type(error).__name__


def translate(error: BaseException, *, dsn: str = "") -> EmbedtuiError:
    """Turn a psycopg error into one of ours: one redacted line and the mend."""
    if isinstance(error, EmbedtuiError):
        return error
    line = _first_line(error)
    lower = str(error).lower()
    if isinstance(error, errors.InsufficientPrivilege):
        if "row-level security" in lower:
            return DatabaseError(
                f"{line}.", hint="Row security hides rows from this role: use the table's owner or a BYPASSRLS role."
            )
        return DatabaseError(
            f"Not permitted: {line}.", hint="Ask for the right, or use the role that owns the table in DATABASE_URL."
        )
    if isinstance(error, errors.LockNotAvailable):
        return LockTimeout(f"{line}.", hint="Somebody holds a lock on it; it is tried again.")
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return DatabaseError("The server is read-only (a standby?).", hint="Point DATABASE_URL at the primary server.")
    if isinstance(error, errors.UndefinedTable | errors.InvalidSchemaName) and "embedtui." in lower:
        return Refused("embedtui has not been prepared in this database.", hint="Prepare it.", remedies=(Remedy.RUN,))
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        hint = "The table changed under the migration: restore it, or give up."
        return DatabaseError(f"{line}.", hint=hint, remedies=(Remedy.ABORT,))
    if isinstance(error, errors.DiskFull):
        return DatabaseLost(f"The server's disk is full: {line}.", hint="Free disk space; the work goes on by itself.")
    if isinstance(error, psycopg.ProgrammingError) and not error.sqlstate:
        return DatabaseError(
            f"DATABASE_URL is not a connection string: {line}", hint="Example: postgresql://user@host:5432/database"
        )
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        if "password authentication failed" in lower or "no password supplied" in lower:
            return DatabaseError(
                f"{_where(dsn).capitalize()} refused the user or password.",
                hint="Check user and password in DATABASE_URL.",
            )
        if "does not exist" in lower and "database" in lower:
            return DatabaseError(f"{line}.", hint="Check the database's name at the end of DATABASE_URL.")
        if "role" in lower and "does not exist" in lower:
            return DatabaseError(f"{line}.", hint="Check the user in DATABASE_URL.")
        if lost(error):
            return DatabaseLost(
                f"No database at {_where(dsn)}: {line}" if dsn else f"The database connection is lost: {line}",
                hint="Is the server running, and DATABASE_URL right?",
            )
    return DatabaseError(f"{line}")


def require_session(dsn: str) -> None:
    """Refuse transaction pooling, which breaks session state (temporary tables, advisory locks, LISTEN).

    A pooler answers with a backend pid that is not the server's. To tell transaction pooling from session pooling, a
    second connection holds a transaction open: only in transaction pooling does the first then move to another backend.

    Raises:
        DatabaseError: transaction pooling detected.
    """
    with connect(dsn, name="check") as first:
        real = first.execute("SELECT pg_backend_pid()").fetchone()
        assert real is not None
        if real[0] == first.info.backend_pid:
            return
        with connect(dsn, name="check") as second, second.transaction():
            second.execute("SELECT 1")
            now = first.execute("SELECT pg_backend_pid()").fetchone()
            assert now is not None
    if now[0] != real[0]:
        raise DatabaseError(
            "DATABASE_URL goes through a transaction pooler (PgBouncer?), which loses temporary tables and locks.",
            hint="Use the server's own port, or a session-pooling port.",
        )


class Link:
    """One thread's connection: opened when first used, opened anew after it was lost."""

    def __init__(self, dsn: str, name: str, **options: Any) -> None:
        self._dsn, self._name, self._options = dsn, name, options
        self._conn: Connection | None = None
        self.on_open: Callable[[Connection], None] | None = None
        """Called with each new connection, e.g. to make its temporary table."""

    def get(self) -> Connection:
        """The connection, alive as far as the client knows.

        Raises:
            DatabaseError: it cannot be opened.
        """
        if self._conn is None or self._conn.closed or self._conn.broken:
            self.drop()
            self._conn = connect(self._dsn, name=self._name, **self._options)
            if self.on_open is not None:
                try:
                    self.on_open(self._conn)
                except BaseException:
                    self.drop()  # half opened is not open: the next call does all of it again
                    raise
        return self._conn

    def drop(self) -> None:
        """Close the connection, if any."""
        conn, self._conn = self._conn, None
        if conn is not None:
            try:
                conn.close()
            except psycopg.Error:
                pass

    def cancel(self) -> None:
        """Cancel what it is running, from another thread."""
        if self._conn is not None and not self._conn.closed:
            self._conn.cancel_safe(timeout=2)


def relation(schema: str, name: str) -> sql.Identifier:
    """A quoted, qualified relation name."""
    return sql.Identifier(schema, name)
