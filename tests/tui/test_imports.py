"""The screen is handed an engine; it loads nothing of what is behind one."""

from __future__ import annotations

import subprocess
import sys

ALLOWED = (
    "embedtui",
    *(
        f"embedtui.{name}"
        for name in ("arrays", "errors", "formatting", "known", "logs", "model", "redaction", "tracebacks", "tui")
    ),
)
SAY_LOADED = """
import sys
import embedtui.tui
print(*(name for name in sys.modules if name.startswith(("embedtui", "psycopg", "openai", "numpy", "sqlalchemy"))))
"""


def test_the_screen_loads_no_engine_database_or_provider() -> None:
    """Only the bridge is handed an engine; what it is made of is loaded by who makes it."""
    loaded = subprocess.run(
        [sys.executable, "-c", SAY_LOADED], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "embedtui.tui.app" in loaded
    assert [
        name
        for name in loaded
        if name not in ALLOWED and not name.startswith(("embedtui.tui.", "embedtui.model.", "embedtui.known."))
    ] == []
