"""What a session remembers for the next one: theme, own queries. Losing it loses no work."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import platformdirs

_FILE = "session.json"
_MAX_QUERIES = 200


@dataclass(frozen=True, slots=True)
class Preferences:
    """Remembered between sessions."""

    theme: str = ""
    """Empty: chosen by the terminal."""
    queries: tuple[str, ...] = ()
    """Queries typed by the operator, newest first."""
    toured: bool = False
    """The tour ended, or was skipped."""

    def with_query(self, text: str) -> Preferences:
        """These preferences with ``text`` as the newest query."""
        rest = tuple(each for each in self.queries if each != text)
        return replace(self, queries=(text, *rest)[:_MAX_QUERIES])


def state_path() -> Path:
    """Folder of the session's state; made where missing."""
    return platformdirs.user_state_path("embedtui", appauthor=False, ensure_exists=True)


def load() -> Preferences:
    """The remembered preferences; the defaults where there are none or the file cannot be used."""
    try:
        stored = json.loads((state_path() / _FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return Preferences()
    if not isinstance(stored, dict):
        return Preferences()
    theme, queries = stored.get("theme"), stored.get("queries")
    return Preferences(
        theme=theme if isinstance(theme, str) else "",
        queries=tuple(each for each in queries if isinstance(each, str)) if isinstance(queries, list) else (),
        toured=stored.get("toured") is True,
    )


def save(preferences: Preferences) -> None:
    """Stores ``preferences`` atomically; a folder that cannot be written is no reason to fail."""
    with contextlib.suppress(OSError):
        write_file(state_path() / _FILE, json.dumps(asdict(preferences), indent=1))


def write_file(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` through a file beside it, so a reader never sees half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
