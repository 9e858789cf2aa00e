"""Connections: how every one is opened, how its errors are told, and how secrets are kept out of what is told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.types.json import set_json_loads

from embedtui.errors import DatabaseError, DatabaseLost, DatabaseUnreachable, EmbedtuiError, Locked, Refused
from embedtui.model import Remedy
from embedtui.postgres import dsn as strings
from embedtui.postgres.trust import OURS, require_trusted_schema
from embedtui.redaction import redact, remember

APPLICATION = "embedtui"

SEARCH_PATH = "pg_catalog, pg_temp"
"""Of all our sessions. What the application plants in a schema of the path that the operator's role happens to have, a
function or operator that fits better than the catalog's, is then never found; temporary objects come last. All that is
not the catalog's is written with its schema."""

CANONICAL = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
}
"""All that a value's text form depends on beside the value, and what a literal's backslash says, of all our sessions
and of change capture in the application's: a row's key is compared as text, and what one session writes another has to
find."""

MORE_MEMORY = (
    "Give it more: a container's /dev/shm by `docker run --shm-size=2g` or an emptyDir in memory, or set"
    " dynamic_shared_memory_type = mmap; or ask for less: index.parallel_workers = 0, a smaller"
    " index.maintenance_work_mem."
)

STATEMENT_TIMEOUT_MS = 60_000
LONGEST_STATEMENT_MS = 16 * 60_000
"""A statement that cannot be made smaller and was cut by its time-out is given up to so long."""

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

# The one statement that still runs with the role's own search path: every name in it is qualified.
_SET_UP = f"""
SELECT pg_catalog.set_config('search_path', %s, false),
       pg_catalog.set_config('statement_timeout', %s, false), pg_catalog.set_config('lock_timeout', %s, false),
       pg_catalog.set_config('idle_in_transaction_session_timeout', '60s', false),
       -- our sessions wait for providers and operators, and an index takes as long as it takes
       pg_catalog.set_config('idle_session_timeout', '0', false),
       CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 170000
           THEN pg_catalog.set_config('transaction_timeout', '0', false) END,
       {", ".join(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in CANONICAL.items())},
       pg_catalog.set_config('row_security', 'off', false),
       -- which process it is: lines of the audit log take it from here
       pg_catalog.set_config('embedtui.pid', %s, false),
       -- never off: a database that its administrator made read-only stays so
       pg_catalog.set_config('default_transaction_read_only',
           CASE WHEN %s THEN 'on' ELSE pg_catalog.current_setting('default_transaction_read_only') END, false),
       -- the guards re-read a row that changed meanwhile, which a serializable transaction would not
       pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
       -- the same for the server: what a host that lost its power had locked would stay so for hours
       pg_catalog.set_config('tcp_keepalives_idle', '10', false),
       pg_catalog.set_config('tcp_keepalives_interval', '5', false),
       pg_catalog.set_config('tcp_keepalives_count', '4', false),
       pg_catalog.set_config('tcp_user_timeout', '30000', false),
       {OURS}
"""

# 'PL/pgSQL function "App".log() line 3 at SQL statement', 'SQL function "slug" during startup'
_PART = r'(?:"(?:[^"]|"")+"|[^\s".(]+)'
_ROUTINE = re.compile(
    rf'PL/\w+ function (?P<name>{_PART}(?:\.{_PART})?\((?:[^()"]|"[^"]*")*\)) '
    r'|SQL function "(?P<bare>.+?)" (?:during|statement)'
)


def is_ours(alias: str = "") -> str:
    """SQL that says of a row of pg_stat_activity whether it is a session of embedtui's, a Router's among them."""
    name = f"{alias}.application_name" if alias else "application_name"
    return f"pg_catalog.starts_with({name}, '{APPLICATION}/')"


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
    statement_timeout_ms: int = STATEMENT_TIMEOUT_MS,
    lock_timeout_ms: int = 5_000,
    connect_timeout: int = 10,
    read_only: bool = False,
) -> Connection:
    """Open a connection named ``embedtui/<name>`` with time-outs and keepalives set.

    Row security is switched off for it, so that hidden rows raise an error and are never silently skipped. Its search
    path is ``SEARCH_PATH``; see :func:`home_schemas` for the one that the operator's role or DSN gives.

    Raises:
        DatabaseError: unreachable, wrong password, unknown database (hint says the mend), or a schema ``embedtui`` that
            somebody else made.
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
    except (psycopg.Error, ValueError) as error:  # a ValueError: bytes that no text has
        found = translate(error, dsn=dsn)
        if isinstance(found, DatabaseLost) and not getattr(error, "sqlstate", None):  # else a server answered
            found = DatabaseUnreachable(found.message, hint=found.hint)
        raise found from None
    for secret in strings.secrets(dsn):
        remember(secret)
    set_json_loads(_loads, conn)
    try:
        conn.prepare_threshold = 5
        settings = [SEARCH_PATH, f"{statement_timeout_ms}ms", f"{lock_timeout_ms}ms", str(os.getpid()), read_only]
        try:
            _set_up(conn, settings)
        except errors.QueryCanceled:  # a cancel that was meant for something else, or a busy moment
            _set_up(conn, settings)
        conn.autocommit = autocommit
    except DatabaseError:
        conn.close()
        raise
    except psycopg.Error as error:  # the server was there: whatever this is, the address is right
        conn.close()
        raise translate(error) from None
    return conn


def _set_up(conn: Connection, settings: Sequence[object]) -> None:
    row = conn.execute(_SET_UP, settings).fetchone()
    if row is None or not row[-1]:
        require_trusted_schema(conn)


def _loads(text: str | bytes) -> Any:
    """JSON of the database, some of which other roles may write; None where it is nested deeper than anything of ours.

    Python's own reader refuses integers of thousands of digits.
    """
    try:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 300 else float(digits))
    except RecursionError:
        return None


def home_schemas(conn: Connection) -> list[str]:
    """The schemas of the search path that role, database or DSN give: what a bare table name is read by."""
    with conn.transaction(force_rollback=True):  # also inside of a caller's transaction the path is ours again
        conn.execute(
            "SELECT pg_catalog.set_config('search_path', reset_val, true) FROM pg_catalog.pg_settings"
            " WHERE name OPERATOR(pg_catalog.=) 'search_path'"
        )
        row = conn.execute("SELECT pg_catalog.current_schemas(false)").fetchone()
    return list(row[0]) if row else []


def lost(error: BaseException) -> bool:
    """Whether ``error`` means that the connection or the server is gone, and trying again later makes sense."""
    if isinstance(error, DatabaseLost):
        return True
    if isinstance(error, (errors.QueryCanceled, errors.LockNotAvailable)):
        return False
    if isinstance(error, psycopg.OperationalError):
        state = error.sqlstate or ""
        # 57P0x: shutdown, crash, starting up; 08: connection; 53: out of connections, disk (memory: see below)
        return state == "" or (state.startswith(("08", "57P", "53")) and not short_of_memory(error))
    return isinstance(error, psycopg.InterfaceError)


def exhausted(error: BaseException) -> bool:
    """Whether the server is out of disk or memory: the session itself is well, and its locks tell that we live."""
    return (getattr(error, "sqlstate", None) or "").startswith("53")


def short_of_memory(error: BaseException) -> bool:
    """Whether the server had too little memory for this very statement, shared memory among it.

    Asking for the same again gets the same answer, unlike with a full disk, whose code (53100) a shared memory segment
    that cannot be made has as well. What tells them apart is where in the server it was raised: messages are in the
    server's language.
    """
    if isinstance(error, errors.OutOfMemory):
        return True
    return isinstance(error, psycopg.Error) and (error.diag.source_file or "").endswith("dsm_impl.c")


def retryable(error: BaseException) -> bool:
    """Whether the same transaction may be tried again as it is: serialization, deadlock, lock time-out, cancelled."""
    return isinstance(
        error,
        Locked | errors.SerializationFailure | errors.DeadlockDetected | errors.LockNotAvailable | errors.QueryCanceled,
    )


def _first_line(error: BaseException) -> str:
    diag = getattr(error, "diag", None)
    text = (diag.message_primary if diag is not None else None) or str(error)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return redact(lines[0]) if lines else type(error).__name__


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def translate(error: BaseException, *, dsn: str = "") -> EmbedtuiError:
    """Turn a psycopg error into one of ours: one redacted line and the mend.

    ``dsn``: what was connected to; nothing of one that is mistyped is repeated.
    """
    if isinstance(error, EmbedtuiError):
        return error
    line = strings.without_it(_first_line(error), dsn) if dsn else _first_line(error)
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
        return Locked(f"{line}.", hint="Somebody holds a lock on it; it is tried again.")
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return DatabaseError("The server is read-only (a standby?).", hint="Point DATABASE_URL at the primary server.")
    if isinstance(error, errors.UndefinedTable | errors.InvalidSchemaName) and "embedtui." in lower:
        return Refused("embedtui has not been prepared in this database.", hint="Prepare it.", remedies=(Remedy.RUN,))
    if (out_of_path := _not_on_our_path(error, line)) is not None:
        return out_of_path
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        hint = "The table changed under the migration: restore it, or give up."
        return DatabaseError(f"{line}.", hint=hint, remedies=(Remedy.ABORT,))
    if isinstance(error, psycopg.DataError) and error.sqlstate is not None:
        hint = (
            "SQL over a row fails on one of the rows: scope or content_sql, or the table's own (an index, a trigger)."
            " Change that row, or write it to have a value for every row: CASE, nullif()."
        )
        if "different vector dimensions" in lower:
            hint = (
                "The column holds vectors of several sizes, which the application's searches fail on, too: mend them."
            )
        return DatabaseError(f"{line}.", hint=hint)
    if short_of_memory(error):
        return DatabaseError(f"The server has too little memory: {line}.", hint=MORE_MEMORY)
    if isinstance(error, errors.ProgramLimitExceeded) and "maintenance_work_mem" in lower:  # pgvector's, of ivfflat
        return DatabaseError(f"{line}.", hint="Raise index.maintenance_work_mem above that, then run again.")
    if isinstance(error, errors.DiskFull):
        return DatabaseLost(f"The server's disk is full: {line}.", hint="Free disk space; the work goes on by itself.")
    if (
        dsn
        and isinstance(error, psycopg.ProgrammingError | ValueError)
        and not getattr(error, "sqlstate", None)
        and strings.read(dsn) is None
    ):
        return DatabaseError(f"DATABASE_URL is not a connection string: {strings.mistake(dsn)}.", hint=strings.EXAMPLE)
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return _unreached(error, line, lower, dsn)
    return DatabaseError(f"{line}")


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else '"' + name.replace('"', '""') + '"'


def _not_on_our_path(error: BaseException, line: str) -> DatabaseError | None:
    """What a name means that our sessions' search path does not find; None where it is something else."""
    unknown = isinstance(error, errors.UndefinedFunction | errors.UndefinedTable | errors.UndefinedObject)
    if unknown and (routine := _ROUTINE.search(error.diag.context or "")) is not None:  # type: ignore[attr-defined]
        name = routine["name"] or _quoted(routine["bare"])
        return DatabaseError(
            f"{line} (in function {name}).",
            hint=f"It relies on a search path, and embedtui's sessions have {SEARCH_PATH}:"
            f" ALTER FUNCTION {name} SET search_path = …, pg_temp.",
        )
    if isinstance(error, errors.UndefinedFunction | errors.UndefinedObject):
        return DatabaseError(
            f"{line}.",
            hint=f"embedtui's sessions have search_path = {SEARCH_PATH}: in a filter, write the schema of functions,"
            " types and operators: app.f(x), x::app.t, x OPERATOR(app.=) y.",
        )
    return None


def _unreached(error: psycopg.Error, line: str, lower: str, dsn: str) -> EmbedtuiError:
    """What a session that was refused or lost means; ``line``: its message, ``lower`` for looking."""
    if "password authentication failed" in lower or "no password supplied" in lower:
        return DatabaseError(
            f"{_sentence(strings.where(dsn))} refused the user or password.",
            hint="Check user and password in DATABASE_URL.",
        )
    if "does not exist" in lower and "database" in lower:
        if strings.demo(dsn):
            return DatabaseError(
                f"The demo was reset: {line}.", hint="Start it again: `embedtui demo`, or with --dead."
            )
        return DatabaseError(f"{line}.", hint="Check the database's name in DATABASE_URL.")
    if "role" in lower and "does not exist" in lower:
        return DatabaseError(f"{line}.", hint="Check the user in DATABASE_URL.")
    if lost(error) and (folder := strings.demo(dsn)):
        return DatabaseLost(
            f"The demo in {folder} does not run, nor does its database, which DATABASE_URL names: {line}",
            hint="Name your own database there; or start that demo: `embedtui demo`, with its own data folder.",
        )
    if lost(error):
        return DatabaseLost(
            f"No database at {strings.where(dsn)}: {line}" if dsn else f"The database connection is lost: {line}",
            hint="Is the server running, and DATABASE_URL right?"
            if not dsn or strings.read(dsn) is not None
            else f"DATABASE_URL may be mistyped. {strings.EXAMPLE}",
        )
    return DatabaseError(f"{line}")


def require_session(dsn: str, first: Connection) -> None:
    """Refuse transaction pooling, which breaks session state (time-outs, advisory locks, LISTEN).

    A pooler answers with a backend pid that is not the server's. To tell transaction pooling from session pooling, a
    second connection holds a transaction open: only in transaction pooling does ``first``, a connection to the same
    with no transaction open, then move to another backend.

    Raises:
        DatabaseError: transaction pooling detected.
    """
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
            "DATABASE_URL goes through a transaction pooler (PgBouncer?), which loses time-outs and locks.",
            hint="Use the server's own port, or a session-pooling port.",
        )


class Link:
    """One thread's connection: opened when first used, opened anew after it was lost."""

    def __init__(self, dsn: str, name: str, **options: Any) -> None:
        self._dsn, self._name, self._options = dsn, name, options
        self._conn: Connection | None = None
        self.pid: int | None = None
        """The server's process that serves it; None while it is closed."""
        self.on_open: Callable[[Connection], None] | None = None
        """Called with each new connection, e.g. to make it ready for writing."""

    def get(self) -> Connection:
        """The connection, alive as far as the client knows.

        Raises:
            DatabaseError: it cannot be opened.
        """
        if self._conn is None or self._conn.closed or self._conn.broken:
            self.drop()
            self._conn = connect(self._dsn, name=self._name, **self._options)
            self.pid = self._conn.info.backend_pid
            if self.on_open is not None:
                try:
                    self.on_open(self._conn)
                except BaseException:
                    self.drop()  # half opened is not open: the next call does all of it again
                    raise
        return self._conn

    @property
    def statement_timeout_ms(self) -> int:
        """How long a statement may take; 0 is for ever."""
        return int(self._options.get("statement_timeout_ms", STATEMENT_TIMEOUT_MS))

    def allow_longer(self) -> bool:
        """Twice the time for a statement from now on, in later sessions as well; False where that is the longest."""
        if not 0 < self.statement_timeout_ms < LONGEST_STATEMENT_MS:
            return False
        self._options["statement_timeout_ms"] = min(2 * self.statement_timeout_ms, LONGEST_STATEMENT_MS)
        self._set("statement_timeout", f"{self.statement_timeout_ms}ms")
        return True

    def work_alone(self) -> None:
        """No parallel workers for this session's queries: each query's share a segment of shared memory."""
        self._set("max_parallel_workers_per_gather", "0")

    def _set(self, name: str, value: str) -> None:
        if self._conn is not None and not self._conn.closed:
            with contextlib.suppress(psycopg.Error):  # who comes next is told
                self._conn.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))

    def drop(self) -> None:
        """Close the connection, if any."""
        conn, self._conn, self.pid = self._conn, None, None
        if conn is not None:
            try:
                conn.close()
            except psycopg.Error:
                pass
