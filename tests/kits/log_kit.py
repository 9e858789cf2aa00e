"""A log file for one test, and everything that must never be in one."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedtui import logs

PASSWORD, KEY, DOCUMENT = "hunter2-prod", "weirdkey.0815.secret", "The patient of room 12 has a rare blood disease."
DSN = f"postgresql://app:{PASSWORD}@db.example:5432/shop"
CONFESSION = f"cannot embed {DOCUMENT} with {KEY} at {DSN}"
"""What a careless exception might say."""


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """This process logs here while the test runs."""
    hooks, root = (sys.excepthook, threading.excepthook), logging.getLogger()
    before = list(root.handlers)
    logs.start(tmp_path / "logs" / "embedtui.log")
    yield tmp_path / "logs" / "embedtui.log"
    for handler in [each for each in root.handlers if each not in before]:
        root.removeHandler(handler)
        handler.close()
    sys.excepthook, threading.excepthook = hooks


def holds_traceback(log: str, *names: str) -> None:
    """The log has a traceback that goes through all of ``names``, and none of the secrets."""
    assert "Traceback (most recent call last):" in log, log
    for name in names:
        assert name in log, log
    assert_no_secret(log)


def assert_no_secret(text: str) -> None:
    """Neither password nor key nor a piece of the document is in ``text``."""
    for secret in (PASSWORD, KEY, DOCUMENT, "patient", "blood disease"):
        assert secret not in text, text
