"""What the commands print: data on stdout, everything else on stderr, no control characters, JSON as one object."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import click

from embedtui.formatting import counted, duration, money, number, percent
from embedtui.model import Condition, Phase, Snapshot, TableName, hold_word
from embedtui.redaction import redact

LINE_EVERY_SECONDS = 5.0
"""Between two lines of progress where stderr is no terminal."""


def plain(text: object, limit: int = 2000) -> str:
    """Text from a database or provider as one harmless line: no control characters, no secrets, cut to ``limit``."""
    line = re.sub(r"\s+", " ", redact(str(text)[: limit * 2])).strip()
    return line if len(line) <= limit else line[: limit - 1] + "…"


def say(text: str = "") -> None:
    """A line of the command's result, on stdout."""
    click.echo(text)


def note(text: str) -> None:
    """A line beside the result (progress, a hint), on stderr; where nobody reads that, work goes on all the same."""
    _beside(text)


def _beside(text: str, *, nl: bool = True) -> None:
    with suppress(OSError, ValueError):
        click.echo(text, nl=nl, err=True)


def to_data(value: Any) -> Any:
    """Dataclasses, enums and times as what JSON knows; what is no number (NaN, infinity) as null."""
    if isinstance(value, TableName):
        return f"{value.schema}.{value.name}"
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_data(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(to_data(name)): to_data(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_data(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "item") and callable(value.item):  # a numpy scalar
        return value.item()
    return value


def emit_json(value: Any) -> None:
    """One JSON object on stdout; non-ASCII escaped, so that nothing in it can drive a terminal."""
    click.echo(json.dumps(to_data(value), allow_nan=False))


def table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> Iterable[str]:
    """Lines of a plain table, columns as wide as they need."""
    widths = [max(len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    for row in (heads, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


# ---------------------------------------------------------------------------------------------------- progress


def progress_text(snapshot: Snapshot) -> str:
    """One line on where a migration stands."""
    backfill, index = snapshot.backfill, snapshot.index
    parts = [snapshot.phase.value]
    if snapshot.phase in (Phase.PREPARE, Phase.BACKFILL, Phase.INDEX):
        share = f" ({percent(backfill.rows / backfill.total, 1)})" if backfill.total else ""
        parts.append(f"{number(backfill.rows)}/{snapshot.about}{number(backfill.total)} rows{share}")
    if snapshot.phase is Phase.BACKFILL:
        if backfill.rate is not None:
            parts.append(f"{backfill.rate:,.0f} rows/s")
        if backfill.eta_seconds is not None:
            parts.append(f"ETA {duration(backfill.eta_seconds)}")
        parts.append(f"{number(backfill.tokens)} tokens")
        if backfill.spent is not None:
            parts.append(f"spent {money(backfill.spent)}")
    batch = snapshot.batch
    if batch.jobs:
        parts.append(f"{counted(len(batch.jobs), 'batch job', 'batch jobs')} with {number(batch.waiting)} rows")
        if batch.eta_seconds is not None:
            parts.append(f"ready in about {duration(batch.eta_seconds)}")
    if index.phase:
        share = f" {percent(index.done / index.total)}" if index.done is not None and index.total else ""
        parts.append(f"index: {plain(index.phase, 60)}{share}")
        if index.waiting_for:
            parts.append(f"waits for {plain(index.waiting_for, 80)}")
    if snapshot.sync.queued:
        parts.append(f"{number(snapshot.sync.queued)} queued")
    if snapshot.faulty:
        parts.append(f"{number(snapshot.faulty)} faulty")
    if snapshot.condition not in (Condition.RUNNING, Condition.IDLE):
        reasons = "; ".join(f"{plain(hold_word(hold.name))}: {plain(hold.detail, 80)}" for hold in snapshot.reasons)
        parts.append(snapshot.condition.value + (f" ({reasons})" if reasons else ""))
    return " · ".join(parts)


LABEL = 11
"""Cells before the text of a line of the status: what is broken goes on below it."""


def broken(text: str, width: int) -> list[str]:
    """``text`` on lines of at most ``width`` cells, broken between words, but for a word that is wider alone."""
    from rich.console import Console
    from rich.text import Text

    rows = [each.plain.rstrip() for each in Text(text).wrap(Console(), max(2, width - LABEL), overflow="fold")]
    return [f"{' ' * LABEL}{row}" if number else row for number, row in enumerate(rows)]


class Picture:
    """Lines on stdout; ``again``: on a terminal each picture takes the place of the one before, whatever its size."""

    def __init__(self, *, again: bool) -> None:
        self._over = again and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._first = True

    def show(self, lines: Iterable[str]) -> None:
        """Show them. What is wider than the terminal is broken, what is more than its height is counted."""
        if not self._over:
            for line in lines:
                say(line)
            return
        size = shutil.get_terminal_size()
        rows = [row for line in lines for row in broken(line, size.columns - 1)]
        if len(rows) >= size.lines:
            kept = max(0, size.lines - 2)
            rows = [*rows[:kept], f"… {counted(len(rows) - kept, 'more line', 'more lines')}"]
        clear, self._first = "\x1b[2J" if self._first else "", False
        click.echo(f"{clear}\x1b[H" + "".join(f"{row}\x1b[K\n" for row in rows) + "\x1b[J", nl=False)


class ProgressLine:
    """Progress on stderr: one line that is rewritten on a terminal, else a line every few seconds, only if changed."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = ""
        self._at = -math.inf

    def show(self, text: str) -> None:
        """Show ``text`` as the present state."""
        if text == self._shown:
            return
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            cut = text if len(text) <= width else text[: width - 1] + "…"
            _beside(f"\r\x1b[K{cut}", nl=False)
        elif time.monotonic() - self._at < LINE_EVERY_SECONDS:
            return
        else:
            note(text)
        self._shown, self._at = text, time.monotonic()

    def line(self, text: str) -> None:
        """A line that stays, e.g. a change of phase or a failure."""
        self.clear()
        note(text)

    def clear(self) -> None:
        """Take the rewritten line away."""
        if self._terminal and self._shown:
            _beside("\r\x1b[K", nl=False)
            self._shown = ""
