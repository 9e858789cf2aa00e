"""What others do, and what needs somebody: told in the corner, by the bell, and by the newest comparison."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from textual.message import Message

from embedtui.model import Comparison, Snapshot
from embedtui.tui import messages, smooth
from embedtui.tui.asking import AskingApp
from embedtui.tui.panels import happened
from embedtui.tui.panels.alerts import Alert
from embedtui.tui.view import Link, View

_LATE_READINGS, _LATE_SECONDS = 10, 5.0
"""A picture that is older than so many readings take, and than so many seconds, says so."""
_TOLD = 3
"""Acts of others told one by one at a time."""


class Others(AskingApp):
    """An app that follows what happens in other terminals."""

    comparison: Comparison | None = None
    """The newest comparison, with the verdicts given here."""
    snapshot: Any
    link: Link
    taken_at = 0.0
    """When the newest snapshot came, by the monotonic clock."""
    _notify = True
    _called_for = ""
    """What somebody was called for last; empty while nothing needs anybody."""
    _wanted: int | None = None
    """The evaluation of others that was asked for last."""

    @property
    def view(self) -> View:
        """What panels are shown."""
        raise NotImplementedError

    def show(self) -> None:
        """Show the present view on every screen of the front stack."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Look now and then; Textual also calls what a class above has of this name."""
        self.set_interval(1.0, self.look_at_age)

    def look_at_age(self) -> None:
        """Say how old the picture is where the next one is late."""
        age = time.monotonic() - self.taken_at
        if self.link.up and age >= max(_LATE_SECONDS, _LATE_READINGS * self.bridge.interval):
            self.link = replace(self.link, seconds=age)
            self.show()

    def hand_on(self, message: Message) -> None:
        """Give ``message`` to the screens of the front stack."""
        raise NotImplementedError

    def say_others(self, before: Snapshot, now: Snapshot) -> None:
        """What others did meanwhile, with who and where."""
        known = before.log[-1].id if before.log else 0
        acts = [each for each in now.log if each.id > known and not each.own and each.act not in happened.QUIET]
        for each in acts[-_TOLD:]:
            severity: Any = "warning" if each.act in happened.LOUD else "information"
            self.say(happened.Entry.of_audit(each).text, title=happened.whose(each), severity=severity)
        if len(acts) > _TOLD:
            self.say(f"{len(acts) - _TOLD} more, see 6 (Log).")
        lived = {worker.id for worker in before.workers if worker.alive}
        for worker in now.workers:
            if worker.id in lived and not worker.alive:
                text = f"{worker.host}:{worker.pid} died: it no longer holds its connection. 5 shows who is at work."
                self.say(text, title="Worker", severity="error")

    def call(self, found: Alert | None) -> None:
        """Call for somebody once for each thing that does not go on by itself."""
        word = found.word if found is not None and found.urgent else ""
        if found is not None and word and word != self._called_for and self._notify:
            self.call_for(f"{self.view.table}: {word.lower()}, {found.why}")
        self._called_for = word

    def follow_evaluation(self, now: Snapshot) -> None:
        """Another terminal's comparison is the newest here, too."""
        newest = now.evaluation.id if now.evaluation is not None else None
        if newest is None or self.comparison is None or newest in (self.comparison.evaluation_id, self._wanted):
            return
        if (self.comparison.evaluation_id or 0) < newest:
            self._wanted = newest
            self.bridge.read(lambda engine: engine.last_comparison(), messages.ComparisonRead, self.post_message)

    def read_comparison(self) -> None:
        """Have the recorded comparison read: its rows as they are now."""
        if self.snapshot is not None and self.snapshot.evaluation is not None:
            self.bridge.read(lambda engine: engine.last_comparison(), messages.ComparisonRead, self.post_message)

    def on_compared(self, message: messages.Compared) -> None:
        """Keep the comparison for all screens."""
        self.comparison = message.comparison
        smooth.loaded()
        self.hand_on(message)

    def on_comparison_read(self, message: messages.ComparisonRead) -> None:
        """Keep it for all screens, unless a newer one came first."""
        known, found = self.comparison, message.comparison
        if known is not None and found is not None and found.evaluation_id == known.evaluation_id:
            found = _with_verdicts_of(known, found)
            newer = found != known
        else:
            newer = known is None or (found is not None and (found.evaluation_id or 0) > (known.evaluation_id or 0))
        if newer:
            self.comparison = found
            smooth.loaded()
            self.hand_on(messages.ComparisonRead(found))


def _with_verdicts_of(known: Comparison, found: Comparison) -> Comparison:
    """The same comparison read again: what was decided here meanwhile stays as it is on the screen."""
    given = {query.query_id: query for query in known.queries}
    queries = tuple(
        replace(query, verdict=given[query.query_id].verdict, note=given[query.query_id].note)
        if query.query_id in given
        else query
        for query in found.queries
    )
    return replace(found, queries=queries, measures=known.measures, at=known.at, checks=known.checks)
