"""Actions on the screen itself: leave, detach, help, theme, palette."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from embedtui.model import Snapshot
from embedtui.tui import theme
from embedtui.tui.actions.base import Action
from embedtui.tui.view import View

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


class Detach(Action):
    """Leave; what r started goes on without this terminal."""

    name, key, label = "detach", "D", "Detach"
    group = "Screen"
    offline = True

    def _unmet(self, view: View, _snapshot: Snapshot) -> str:
        if not view.running:
            return "No work is under way in this terminal: leave with q."
        return "" if view.detachable else "This work ends with its terminal, as all of the demo does."

    def _do(self, app: Dashboard) -> None:
        app.detach()


class Help(Action):
    """All keys, and what the signs mean."""

    name, key, written, label = "help", "question_mark", "?", "Help"
    group = "Screen"
    changes = False

    def _do(self, app: Dashboard) -> None:
        app.open_help()


class Settings(Action):
    """All settings in force, and where each came from; those that may be changed now are changed here."""

    name, key, label = "settings", "S", "Settings"
    changes = False

    def _do(self, app: Dashboard) -> None:
        app.open_settings()


class Theme(Action):
    """Change between dark, light and 16 colours."""

    name, key, label = "theme", "t", "Theme"
    group = "Screen"
    changes = False

    def _do(self, app: Dashboard) -> None:
        names = [each.name for each in theme.THEMES]
        app.theme = names[(names.index(app.theme) + 1) % len(names)] if app.theme in names else names[0]
        app.preferences = replace(app.preferences, theme=app.theme)


class Palette(Action):
    """Find any action by its name."""

    name, key, written, label = "palette", "ctrl+p", "^p", "Commands"
    group = "Screen"
    changes = False

    def _do(self, app: Dashboard) -> None:
        app.action_command_palette()


class Quit(Action):
    """Leave. Work of this terminal stops and can be resumed; D leaves it running."""

    name, key, label = "quit", "q", "Quit"
    group = "Screen"
    changes = False

    def _do(self, app: Dashboard) -> None:
        app.exit()
