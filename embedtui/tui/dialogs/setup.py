"""Set-up in three dialogs, each over the one before: what is moved, where to, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Input, Select, Static

from embedtui.known import KNOWN_MODELS, PROVIDERS
from embedtui.model import Proposal
from embedtui.tui import draw, safe
from embedtui.tui.dialogs.base import Dialog, field
from embedtui.tui.panels import setup as lines
from embedtui.tui.setup import Ask, Looked, Written
from embedtui.tui.view import Trouble
from embedtui.tui.widgets.listing import Listing


@dataclass(frozen=True, slots=True)
class Field:
    """A setting that is asked for."""

    path: str
    label: str
    empty: str = ""
    """What an empty field means."""
    choices: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Of its widget."""
        return self.path.replace(".", "-")


class SetupDialog(Dialog[None]):
    """A step: its fields, and below them what the choice means, as ``init`` would see it.

    It is looked at when a field is left and before the next step, never while something is half typed.
    """

    CANCEL = "Back"
    AUTO_FOCUS = ".field Input, .field Select, Button"
    FIELDS: ClassVar[tuple[Field, ...]] = ()
    WHOLE: ClassVar[bool] = True
    CHOSEN: ClassVar[bool] = True
    """What it shows at first was chosen, in the steps before: what is refused of it is a fault."""
    TEXT: ClassVar[str] = ""

    def __init__(self, table: str, go: str, proposal: Proposal, chosen: Mapping[str, str], ask: Ask) -> None:
        """Ask of ``table``, with what is proposed; ``chosen`` is what the steps before have chosen."""
        super().__init__(f"{table}: {self.TEXT}", go=go)
        self.proposal, self._chosen, self._ask = proposal, chosen, ask
        self._trouble = Trouble.of(proposal.refused) if proposal.refused else None
        self._number = 0
        self._looked_at: Mapping[str, str] | None = None
        self._going = self._looking = False
        self.go_on: Callable[[Mapping[str, str], Proposal], object] = lambda _values, _proposal: None
        """Takes what is chosen by then."""

    def body(self) -> ComposeResult:
        """A line for each field, then what it means."""
        for each in self.FIELDS:
            yield from field(each.label, self._widget(each))
        with VerticalScroll(classes="found"):
            yield Static(id="found", markup=False)

    def _widget(self, each: Field) -> Widget:
        value = self.proposal.values.get(each.path, "")
        comes = self.proposal.fixed.get(each.path, "")
        if each.choices:
            shown = value if value in each.choices else each.choices[0]
            return Select.from_values(
                each.choices, value=shown, allow_blank=False, id=each.id, compact=True, disabled=bool(comes)
            )
        return Input(value, id=each.id, compact=True, placeholder=self.empty_means(each), disabled=bool(comes))

    def on_mount(self) -> None:
        """Show what is proposed, or look at it."""
        self._looked_at = self.values
        if self.WHOLE and not self.proposal.new:
            self.look()

    def on_resize(self) -> None:
        """Break the lines anew."""
        self._paint()

    @property
    def values(self) -> dict[str, str]:
        """All that is chosen by now, with the steps before."""
        own: dict[str, str] = {}
        for each in self.FIELDS:
            widget = self.query_one(f"#{each.id}")
            if each.path in self.proposal.fixed:
                continue
            if isinstance(widget, Select):
                default = widget.value == each.choices[0] and each.path not in self.proposal.values
                own[each.path] = "" if default else str(widget.value)
            elif isinstance(widget, Input):
                own[each.path] = widget.value if widget.value.strip() else ""
        return {**self._chosen, **own}

    def look(self) -> None:
        """Have the choice looked at; what was asked before no longer matters."""
        self._number += 1
        number, self._looking, self._looked_at = self._number, True, self.values
        self._ask(self._looked_at, self.WHOLE, lambda found, trouble: self.post_message(Looked(number, found, trouble)))
        self._paint()

    def on_looked(self, message: Looked) -> None:
        """Show what it means, and go on where that was asked for."""
        if message.number != self._number:
            return
        going, self._going, self._looking = self._going, False, False
        if message.proposal is not None:
            self.proposal = message.proposal
        refused = message.proposal.refused if message.proposal is not None else None
        self._trouble = message.trouble or (Trouble.of(refused) if refused is not None else None)
        self._paint()
        if going and self._trouble is None and message.proposal is not None:
            self.go_on(self.values, message.proposal)

    def show_field(self, path: str, *, shown: bool) -> None:
        """Show or hide a field with its label."""
        line = self.query_one(f"#{path.replace('.', '-')}").parent
        assert line is not None
        line.display = shown

    def empty_means(self, each: Field) -> str:
        """What an empty field means now."""
        return each.empty

    def choose_fields(self) -> None:
        """Show the fields that are asked for now."""

    def found(self, width: int) -> list[Content]:
        """What the choice means."""
        raise NotImplementedError

    def _paint(self) -> None:
        if not self.is_mounted:
            return
        if self._trouble is not None and self._looked_at is not None and self.values != self._looked_at:
            self._trouble = None  # it is of what was typed before
        width = max(20, self.query_one(".found").size.width - 2)
        for each in self.FIELDS:
            if not each.choices:
                self.query_one(f"#{each.id}", Input).placeholder = self.empty_means(each)
        self.choose_fields()
        asked = self.CHOSEN or self._number > 0
        rows = [] if self._trouble is None else lines.refused_lines(self._trouble, width, asked=asked)
        rows += self.found(width)
        for path, origin in self.proposal.fixed.items():
            name = next((each.label for each in self.FIELDS if each.path == path), "")
            if name and not (self.proposal.left_out and path.endswith("base_url")):
                rows += draw.wrapped(
                    f"{name}: {safe.line(origin)} says it, and comes before the file.", width, "$muted", 3
                )
        if self._looking and not rows:
            rows = [draw.line(("◌ asking the database …", "$muted"))]
        self.query_one("#found", Static).update(draw.lines(rows))
        self.call_after_refresh(self._let_scroll)

    def _let_scroll(self) -> None:
        """What is found is a stop of Tab only where it has to be scrolled."""
        found = self.query_one(".found", VerticalScroll)
        found.can_focus = found.max_scroll_y > 0

    @on(Input.Changed)
    def typing(self) -> None:
        """What was found is of other values now."""
        self._paint()

    @on(Input.Blurred)
    @on(Select.Changed)
    def left(self) -> None:
        """A field was left: what does it mean now?"""
        if self.app.screen is self and self.is_mounted and self.values != self._looked_at:
            self.look()

    @on(Input.Submitted)
    @on(Button.Pressed, "#go")
    def confirmed(self) -> None:
        """Go on, if what is chosen can be."""
        self._going = True
        self.look()


class SourceDialog(SetupDialog):
    """What is moved: which text, of which rows."""

    TEXT = "what is moved"
    CANCEL = "Cancel"
    WHOLE = CHOSEN = False
    FIELDS = (
        Field("content", "Text columns", "e.g. title, body"),
        Field("content_sql", "or SQL", "e.g. payload->>'data'"),
        Field("content_from", "of table", "this one"),
        Field("scope", "Only rows where", "all rows"),
        Field("old_model.name", "Old model, if known", "proves the texts, keeps the old side current"),
    )

    def found(self, width: int) -> list[Content]:
        """The texts as they will be sent."""
        return lines.source_lines(self.proposal, width)


class TargetDialog(SetupDialog):
    """Where to: the model, how it is reached, and whether there is a key."""

    TEXT = "the new model"
    FIELDS = (
        Field("new_model.name", "New model  ↓ lists", "as the provider calls it"),
        Field("new_model.dimensions", "Its dimensions"),
        Field("new_model.provider", "Provider  ↓ lists"),
        Field("new_model.base_url", "Endpoint"),
        Field("new_model.key_variable", "Variable with its key"),
        Field("old_model.base_url", "Old model's endpoint"),
        Field("old_model.key_variable", "Old model's variable"),
    )

    def _text(self, path: str) -> str:
        found = self.query(f"#{path.replace('.', '-')}").results(Input)
        return next((each.value.strip() for each in found), self.proposal.values.get(path, ""))

    def empty_means(self, each: Field) -> str:
        """What is known of the model and its provider."""
        name = self._text("new_model.name")
        if each.path in ("new_model.dimensions", "new_model.provider"):
            return lines.default_of(name, each.path)
        if each.path == "old_model.base_url" and self._text("new_model.base_url"):
            return "this one's, or its provider's own: say which"
        if each.path == "old_model.base_url":
            return lines.provider_default(self._chosen.get("old_model.name", ""), "", "new_model.base_url")
        if each.path == "old_model.key_variable":
            theirs = self._text("old_model.base_url")
            if theirs and theirs == self._text("new_model.base_url"):
                return self._text("new_model.key_variable") or self.empty_means(self.FIELDS[4])
            return lines.provider_default(self._chosen.get("old_model.name", ""), "", "new_model.key_variable")
        if each.path in ("new_model.base_url", "new_model.key_variable"):
            return lines.provider_default(name, self._text("new_model.provider"), each.path)
        return each.empty

    def choose_fields(self) -> None:
        """How the old model is asked, where there is one."""
        known = self._chosen.get("old_model.name") or self.proposal.values.get("old_model.name")
        for each in self.FIELDS[5:]:
            self.show_field(each.path, shown=bool(known))

    def found(self, width: int) -> list[Content]:
        """The model, its price and its key; what is half typed is not looked at yet."""
        found = self.proposal
        if self.values != self._looked_at:
            found = replace(found, new="…" if found.new else "")
        rows = lines.model_lines(found, self._text("new_model.name"), width)
        return rows + lines.left_out_lines(self.proposal, width)

    def on_mount(self) -> None:
        """Keep whose the size is that is proposed."""
        super().on_mount()
        self._first = self._text("new_model.name"), self._text("new_model.dimensions")

    @on(Input.Changed, "#new_model-name")
    def renamed(self) -> None:
        """The size that was proposed is not another model's."""
        name, size = self._first
        if self._text("new_model.name") != name and self._text("new_model.dimensions") == size:
            self._set("new_model.dimensions", "")

    def on_key(self, event: events.Key) -> None:
        """↓ lists what is known."""
        asked = self.focused.id if event.key == "down" and self.focused is not None else None
        if asked == "new_model-name":
            event.stop()
            self.app.push_screen(ModelsDialog(self._text("new_model.name")), self._model_chosen)
        elif asked == "new_model-provider":
            event.stop()
            self.app.push_screen(ProvidersDialog(self._text("new_model.provider")), self._provider_chosen)

    def _model_chosen(self, name: str | None) -> None:
        if name is None:
            return
        self._set("new_model.name", name)
        for path in ("dimensions", "provider", "base_url", "key_variable"):
            self._set(f"new_model.{path}", "")
        self.look()

    def _provider_chosen(self, name: str | None) -> None:
        if name is None:
            return
        self._set("new_model.provider", name)
        for path in ("base_url", "key_variable"):
            self._set(f"new_model.{path}", "")
        self.look()

    def _set(self, path: str, value: str) -> None:
        widget = self.query_one(f"#{path.replace('.', '-')}", Input)
        if not widget.disabled:
            widget.value = value


class WayDialog(SetupDialog):
    """How: where the vectors go, how production follows the switch; then the file is written."""

    TEXT = "how it is moved"
    AUTO_FOCUS = "#go"
    FIELDS = (
        Field("placement", "Placement", choices=("auto", "column", "table")),
        Field("cutover.strategy", "Strategy", choices=tuple(lines.STRATEGIES)),
        Field("cutover.env_file", "File it writes", "/etc/search.env"),
        Field("cutover.hook", "Command it runs", "kubectl rollout restart …"),
        Field("cutover.roles", "Roles it moves", "product"),
    )
    NEEDS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "cutover.env_file": ("env_file",),
        "cutover.hook": ("hook", "rename"),
        "cutover.roles": ("search_path",),
    }

    @property
    def _strategy(self) -> str:
        return str(self.query_one("#cutover-strategy", Select).value)

    def choose_fields(self) -> None:
        """What the strategy needs."""
        for path, strategies in self.NEEDS.items():
            self.show_field(path, shown=self._strategy in strategies)

    def found(self, width: int) -> list[Content]:
        """What that means, and what becomes of the file."""
        return lines.way_lines(self.proposal, self._strategy, width)

    @on(Select.Changed)
    def changed(self) -> None:
        """Its fields go by the strategy."""
        self._paint()

    def on_written(self, message: Written) -> None:
        """Where it was not written, say why; the choice stays."""
        self._trouble = message.trouble
        self._paint()


class _ListDialog(Dialog[str]):
    """One of a list."""

    AUTO_FOCUS = "Listing"
    NAMES: ClassVar[tuple[str, ...]] = ()
    HEADING: ClassVar[str] = ""

    def __init__(self, chosen: str = "") -> None:
        """All of them, the cursor on the one ``chosen`` so far."""
        super().__init__(self.HEADING)
        self._at = self.NAMES.index(chosen) if chosen in self.NAMES else 0

    def body(self) -> ComposeResult:
        """The list."""
        yield Listing(self.paint, id="names")

    def on_mount(self) -> None:
        """Show all of it."""
        listing = self.query_one(Listing)
        listing.styles.height = min(len(self.NAMES), max(4, self.size.height - 8))
        listing.reset(len(self.NAMES), self._at)

    def paint(self, index: int, width: int) -> Content:
        """A name."""
        return draw.cut(Content.styled(self.NAMES[index], "bold"), width)

    @on(Listing.Chosen)
    def chosen(self, message: Listing.Chosen) -> None:
        """That one."""
        message.stop()
        self.dismiss(self.NAMES[message.index])


class ModelsDialog(_ListDialog):
    """The known models."""

    NAMES = tuple(KNOWN_MODELS)
    HEADING = "Known models: provider, dimensions, $ per million tokens"

    def paint(self, index: int, width: int) -> Content:
        """A model."""
        return lines.model_line(self.NAMES[index], KNOWN_MODELS[self.NAMES[index]], width)


class ProvidersDialog(_ListDialog):
    """The known providers."""

    NAMES = tuple(PROVIDERS)
    HEADING = "Providers; openai is also all that speak its API"

    def paint(self, index: int, width: int) -> Content:
        """A provider, and where it is asked."""
        url = lines.provider_default("", self.NAMES[index], "new_model.base_url")
        return draw.row(Content.styled(self.NAMES[index], "bold"), draw.line((url, "$muted")), width)
