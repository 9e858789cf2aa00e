"""The one error tree: every failure an operator can meet has a title, a message, a hint and an exit code."""

from __future__ import annotations

from enum import IntEnum, StrEnum

from embedtui.formatting import sentences, with_remedies


class ExitCode(IntEnum):
    """Exit status of every command; scripts rely on these, so meanings never change."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    DATABASE = 3
    PROVIDER = 4
    NOT_CLEAN = 5
    REFUSED = 6
    INTERRUPTED = 130


class Remedy(StrEnum):
    """An action that mends something; each face says it in its own words, a command or a key."""

    RUN = "run"
    FOLLOW = "run --follow"
    """A worker that stays and keeps the sides in sync."""
    RESUME = "resume"
    COMPARE = "compare"
    VERIFY = "verify"
    SAMPLE = "verify --sample"
    """Some rows are embedded again and compared."""
    REPAIR = "verify --repair"
    """What is wrong is queued to be embedded again."""
    ASK = "plan --check-provider"
    """The models are asked for a few vectors, and what they give is looked at."""
    ROLLBACK = "rollback"
    CLEANUP = "cleanup"
    ABORT = "abort"

    @property
    def command(self) -> str:
        """Its command, marked as one in a sentence."""
        return f"`embedtui {self.value}`"


class EmbedtuiError(Exception):
    """Base of all errors embedtui raises on purpose.

    ``message`` says what is wrong, ``hint`` what to do about it, ending with what is ``typed`` at a command line; for a
    face without commands that is ``prose`` and ``remedies``. None of them ever contains a secret: callers pass
    connection strings through :func:`embedtui.redaction.redact` first.
    """

    title = "embedtui failed"
    exit_code = ExitCode.UNEXPECTED

    def __init__(self, message: str, *, hint: str = "", remedies: tuple[Remedy, ...] = (), typed: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.prose, self.remedies = hint, remedies
        self.hint = f"{with_remedies(hint, [remedy.command for remedy in remedies])} {typed}".strip()

    def __str__(self) -> str:
        return sentences(self.message, self.hint)


class SettingsError(EmbedtuiError):
    """A setting is missing or wrong; the message names it and where it came from."""

    title = "Settings"
    exit_code = ExitCode.USAGE


class QueriesError(SettingsError):
    """Queries that were given cannot be read: a file, what was typed, a statement's rows."""

    title = "Queries"


class TableError(SettingsError):
    """The table, a column or the key named in the settings cannot be used."""

    title = "Table"


class DatabaseError(EmbedtuiError):
    """The database is unreachable, too old, lacks pgvector, or refuses a right."""

    title = "Database"
    exit_code = ExitCode.DATABASE


class DatabaseLost(DatabaseError):
    """The connection broke; the work may go on once the database is back."""

    title = "Database lost"


class DatabaseUnreachable(DatabaseLost):
    """No session was had at all: the address is wrong, or no server runs there."""


class TableChanged(DatabaseError):
    """The application's DDL changed the table under its migration; the hint says how to go on."""

    title = "Table changed"


class LockTimeout(DatabaseError):
    """A DDL step could not get its lock within its patience without blocking production."""

    title = "Waiting for a lock"


class Locked(LockTimeout):
    """A single statement met somebody's lock for as long as its session waits; the next try may not."""


class ProviderError(EmbedtuiError):
    """The embedding provider cannot be used as configured."""

    title = "Provider"
    exit_code = ExitCode.PROVIDER


class NotClean(EmbedtuiError):
    """A check ran and found something: verify is not clean, or the gate did not pass."""

    title = "Not clean"
    exit_code = ExitCode.NOT_CLEAN


class Refused(EmbedtuiError):
    """The act is impossible in this state: wrong phase, or another operator was first."""

    title = "Refused"
    exit_code = ExitCode.REFUSED


class Blocked(Refused):
    """As Refused, where a reason for what stands against it may pass."""


class Interrupted(EmbedtuiError):
    """Stopped by the operator; everything paid for is stored and a rerun goes on from here."""

    title = "Interrupted"
    exit_code = ExitCode.INTERRUPTED
