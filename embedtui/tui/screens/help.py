"""Help: every key of the screen it was called from and of the app, and what the signs mean."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input, Static

from embedtui.tui import draw, theme
from embedtui.tui.actions import ACTIONS, SCREENS
from embedtui.tui.screens.base import DashboardScreen
from embedtui.tui.words import WORDS

_KEY_WORDS = {
    "question_mark": "?",
    "plus": "+",
    "minus": "-",
    "slash": "/",
    "escape": "Esc",
    "enter": "Enter",
    "pageup": "PgUp",
    "pagedown": "PgDn",
    "home": "Home",
    "end": "End",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
    "tab": "Tab",
    "space": "Space",
    "delete": "Del",
    "backspace": "Backspace",
    "f1": "F1",
    "f9": "F9",
}

_TEXTUALS_OWN = ("screen.copy_text", "copy_text", "app.focus_next", "app.focus_previous")

_SIDEWAYS = ("scroll_left", "scroll_right", "page_left", "page_right")
"""What parts inherit and have no use for: their lines are cut or wrapped."""

_SIGNS = (
    ("◇", "$old", "old side"),
    ("◆", "$new", "new side"),
    ("✓", "$success", "done, passed, current"),
    ("!", "$warning", "look at this; before a hit: the index missed it"),
    ("?", "$warning", "not known"),
    ("~", "$warning", "edited since it was compared"),
    *((*theme.CONDITION[each][::2], theme.CONDITION[each][1]) for each in theme.CONDITION),
    ("—", "$muted", "unknown yet"),
    ("★", "$success", "judged relevant"),
    ("+ −", "", "in, out: entered the new side's results, left the old side's"),
    ("↑ ↓", "", "up, down between the two rankings"),
    ("⇄", "$new", "the pointer moved"),
    ("✎", "$primary", "changed by an operator"),
    ("▸", "$primary", "the phase changed"),
)


def key_text(key: str) -> str:
    """A key as a person reads it."""
    return _KEY_WORDS.get(key, key.replace("ctrl+", "^"))


class HelpScreen(ModalScreen[None]):
    """A sheet over the screen it explains."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,f1", "close", "Close", show=False),
        Binding("w", "words", "Words", show=False),
        Binding("y", "copy", "Copy", show=False),
    ]

    def __init__(self, behind: DashboardScreen | None) -> None:
        """Explain the screen ``behind`` it."""
        super().__init__()
        self._behind = behind
        self._words = False

    def compose(self) -> ComposeResult:
        """Lay out one long text."""
        with Vertical(classes="dialog sheet") as box:
            box.border_title = "Keys"
            box.border_subtitle = "w shows the words, Esc closes"
            with VerticalScroll():
                yield Static(id="help-text")

    def on_resize(self) -> None:
        """Wrap the words to the sheet."""
        self._fill()

    def _fill(self) -> None:
        width = min(self.size.width, 88) - 8
        self.query_one("#help-text", Static).update(words(width) if self._words else self.text(width))

    def action_words(self) -> None:
        """Explain the words, or show the keys again."""
        self._words = not self._words
        box = self.query_one(".sheet")
        box.border_title = "Words" if self._words else "Keys"
        box.border_subtitle = f"w shows the {'keys' if self._words else 'words'}, Esc closes"
        self.query_one(VerticalScroll).scroll_home(animate=False)
        self._fill()

    def action_copy(self) -> None:
        """Hand out the command for another terminal."""
        if self._elsewhere and self._behind is not None:
            self._behind.dashboard.hand_out(self._elsewhere, "second-terminal.sh")

    @property
    def _elsewhere(self) -> str:
        return self._behind.dashboard.elsewhere if self._behind is not None and self._behind.is_attached else ""

    def action_close(self) -> None:
        """Leave the help."""
        self.dismiss(None)

    def text(self, width: int) -> Content:
        """Keys in groups: of the part that has the focus, of its screen, of each group of actions, then the signs."""
        rows: list[Content] = []
        if self._elsewhere and self._behind is not None and self._behind.dashboard.about:
            rows.append(Content.styled("The demo", "bold $primary"))
            rows += [draw.line("  ", each) for each in draw.wrapped(self._behind.dashboard.about, width - 2, "", 6)]
            rows.append(Content(""))
        if self._elsewhere:
            rows.append(draw.line(("From a second terminal", "bold $primary"), ("  y copies it", "$muted")))
            rows += [draw.line("  ", each) for each in draw.wrapped(self._elsewhere, width - 2, "", 6)]
            rows.append(Content(""))
        if self._behind is not None:
            rows += _focused(width, self._behind.focused)
            own = [
                (key_text(binding.key_display or binding.key), binding.description, binding.tooltip or "")
                for bindings in self._behind._bindings.key_to_bindings.values()
                for binding in bindings
                if binding.action not in _TEXTUALS_OWN and binding.description
            ]
            if own:
                rows += _group(width, SCREENS[self._behind.NAME][1] if self._behind.NAME in SCREENS else "Here", own)
        rollback = ACTIONS["rollback"]
        anywhere = f"{rollback.help} Also while typing and in dialogs."
        rows += _group(width, "Rollback", [(rollback.key_text, rollback.label, anywhere)])
        for group in dict.fromkeys(action.group for action in ACTIONS.values()):
            of_group = [each for each in ACTIONS.values() if each.group == group and each is not rollback]
            rows += _group(width, group, [(each.key_text, each.label, each.help) for each in of_group])
        rows += _group(width, "Screens", [(key, title, "") for key, title in SCREENS.values()])
        rows += _group(
            width,
            "Lists and fields",
            [
                ("↑ ↓ PgUp PgDn", "Move", "k and j too; Home and End, g and G"),
                ("Tab", "Next part", "Shift+Tab goes back"),
                ("Enter", "Open", "in a dialog: the button marked ⏎"),
                ("Esc", "Leave", "a field or a dialog"),
                ("F1", "Help", "where ? would be typed"),
                ("^q", "Quit", "from anywhere"),
            ],
        )
        rows.append(Content.styled("Signs", "bold $primary"))
        rows += [draw.line("  ", (f"{glyph}  ", f"bold {style}"), word) for glyph, style, word in _SIGNS]
        return draw.lines(rows)


def words(width: int) -> Content:
    """The words of the screens, each in a sentence."""
    rows = []
    for word, meaning in WORDS:
        first, *more = draw.wrapped(meaning, width - 12, "", 4)
        rows.append(draw.line((draw.fit(word, 12), "bold"), first))
        rows += [draw.line(" " * 12, each) for each in more]
    return draw.lines(rows)


def _focused(width: int, widget: Widget | None) -> list[Content]:
    """The keys of the part that has the focus, by its title, on few lines."""
    if widget is None or isinstance(widget, Input):
        return []
    keys: dict[str, list[str]] = {}
    for binding in Binding.make_bindings(type(widget).BINDINGS or VerticalScroll.BINDINGS):
        if binding.action in _SIDEWAYS:
            continue
        keys.setdefault(binding.description.capitalize(), []).append(key_text(binding.key))
    named = next((each for each in widget.ancestors_with_self if isinstance(each, Widget) and each.border_title), None)
    title = Content.from_markup(named.border_title).plain if named is not None and named.border_title else "This part"
    rows = [Content.styled(draw.fit(title, min(width, 60)).rstrip(), "bold $primary"), Content(" ")]
    for label, names in keys.items():
        item = draw.line(" ", (" ".join(names), "bold"), (f" {label}  ", "$muted"))
        if rows[-1].cell_length + item.cell_length > width:
            rows.append(Content(" "))
        rows[-1] = rows[-1] + item
    return [*rows, Content("")]


def _group(width: int, title: str, keys: list[tuple[str, str, str]]) -> list[Content]:
    rows = [Content.styled(title, "bold $primary")]
    wide = 16 if any(len(key) > 6 for key, _, _ in keys) else 7
    for key, label, doc in keys:
        lead = draw.line("  ", (draw.fit(key, wide), "bold"), draw.fit(label, 13))
        words = draw.wrapped(doc, width - lead.cell_length, "$muted", 4) or [Content("")]
        rows.append(draw.line(lead, words[0]))
        rows += [draw.line(" " * lead.cell_length, each) for each in words[1:]]
    return [*rows, Content("")]
