"""The log file of our own processes (command line, dashboard, work): rotating, shared, redacted.

A library keeps its manners: nothing is set up by importing embedtui, and ``embedtui.Router`` only has a logger.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import logging
import os
import sys
import threading
from collections.abc import Iterator
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from embedtui.errors import EmbedtuiError, SettingsError
from embedtui.redaction import without_secrets
from embedtui.tracebacks import described, formatted

VARIABLE = "EMBEDTUI_LOG"
BYTES = 1_000_000
"""Of the file before it is rotated; with three older ones it is never more than 4 MB."""
OLDER = 3

_log = logging.getLogger("embedtui")
_log.addHandler(logging.NullHandler())


class _Redacting(logging.Formatter):
    """One line a record, then the traceback; neither holds secrets, the traceback no documents."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(process)d %(threadName)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z"
        )

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        return formatted(ei[1]).rstrip() if ei[1] is not None else ""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        record.exc_text = None  # another handler may have left its own version there
        return without_secrets(super().format(record))


class _SharedFile(RotatingFileHandler):
    """A rotating file that several processes write; only its owner may read it. A full disk stops no work."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, maxBytes=BYTES, backupCount=OLDER, encoding="utf-8", delay=True)
        self.setFormatter(_Redacting())

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=_private)

    def emit(self, record: logging.LogRecord) -> None:
        with self._alone():
            # another process may have rotated the file away from under us
            if self.stream is not None and not _is_file(self.stream, self.baseFilename):
                with contextlib.suppress(OSError):  # what it still held did not fit on the disk
                    self.stream.close()
                self.stream = None
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing: stderr may be the dashboard's terminal."""

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            lock = os.open(f"{self.baseFilename}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _is_file(stream: IO[Any], path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))  # noqa: PTH116
    except OSError:
        return False


def default_file() -> Path:
    """``embedtui.log`` in the user's folder for logs."""
    import platformdirs

    return platformdirs.user_log_path("embedtui", appauthor=False) / "embedtui.log"


def start(wanted: str | Path | None = None) -> None:
    """Log this process to a file from now on; what no code catches, in any thread, goes there too.

    ``wanted`` None is the default file, or no log where its folder cannot be written.

    Raises:
        SettingsError: a file that was asked for cannot be written.
    """
    path = Path(wanted).expanduser().absolute() if wanted else default_file()
    handler = _SharedFile(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler._open().close()
    except OSError as error:
        if wanted:
            raise SettingsError(f"The log file {path} cannot be written: {error.strerror}.") from None
        return
    root = logging.getLogger()
    for each in [each for each in root.handlers if isinstance(each, _SharedFile)]:
        root.removeHandler(each)
        each.close()
    root.addHandler(handler)
    _log.setLevel(logging.INFO)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def current_file() -> Path | None:
    """The file that this process logs to; None: it was not started, or there is none."""
    return next(
        (Path(each.baseFilename) for each in logging.getLogger().handlers if isinstance(each, _SharedFile)), None
    )


def unexpected(error: BaseException) -> EmbedtuiError:
    """Log the traceback of an error that nobody foresaw; returned as one line and where the traceback is."""
    _log.error("unexpected error", exc_info=error)
    file = current_file()
    hint = "Please report this." if file is None else f"Please report this; the traceback is in {file}."
    return EmbedtuiError(described(error), hint=hint)


def _uncaught(kind: type[BaseException], error: BaseException | None, _: TracebackType | None) -> None:
    if error is None or issubclass(kind, SystemExit | KeyboardInterrupt):
        return
    found = unexpected(error)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"embedtui: {found.title}: {found.message}. {found.hint}\n")
