"""Untrusted text is harmless on the screen."""

from __future__ import annotations

import pytest

from embedtui.tui import draw, safe


@pytest.mark.parametrize(
    ("text", "harmless"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b]52;c;ZXZpbA==\x07paste", "·]52;c;ZXZpbA==·paste"),
        ("\x1b[2Jgone", "·[2Jgone"),
        ("user\u202egpj.exe", "usergpj.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("\x9b31mC1", "·31mC1"),
        ("e\u0301\u0301\u0301\u0301\u0301\u0301", "e\u0301\u0301\u0301"),
        ("\ud800 lone", "· lone"),
        ("héllo 你好", "héllo 你好"),
        ("[bold]not markup[/]", "[bold]not markup[/]"),
    ],
)
def test_untrusted_text_is_neutralised(text: str, harmless: str) -> None:
    assert safe.line(text) == harmless


def test_long_text_is_cut_before_it_is_looked_at() -> None:
    assert len(safe.line("x" * 10_000_000, 100)) == 100
    assert safe.line("ü" * 10_000, 100).endswith("…")


def test_line_breaks_stay_in_a_block() -> None:
    assert safe.block("a\r\nb\rc\td\x00") == "a\nb\nc    d·"


def test_markup_in_a_document_is_shown_and_not_obeyed() -> None:
    assert draw.line(("[/] [red]x[/red]", "$old")).plain == "[/] [red]x[/red]"
