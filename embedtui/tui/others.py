"""What others do, and what needs somebody: told in the corner, by the bell, and by the newest comparison."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from textual.message import Message

from embedtui.model import Comparison, QueryComparison, Snapshot
from embedtui.tui import messages, safe, smooth
from embedtui.tui.asking import AskingApp
from embedtui.tui.engine_threads import Task
from embedtui.tui.panels import happened
from embedtui.tui.panels.alerts import Alert
from embedtui.tui.panels.comparison import VERDICTS
from embedtui.tui.view import Link, View

_LATE_READINGS, _LATE_SECONDS = 10, 5.0
"""A picture that is older than so many readings take, and than so many seconds, says so."""
_REST_SECONDS = 3.0
"""Whoever has not typed for so long is reading."""
_TOLD = 3
"""Acts of others told one by one at a time."""
_DECIDE = "decide"
"""The task that stores a verdict."""


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
    _verdicts = ""
    """Where the verdicts in the database stood when they were last read."""

    def __init__(self) -> None:
        """Nothing is decided yet."""
        super().__init__()
        self._deciding: Counter[int] = Counter()
        """Queries whose verdict is on its way to the database, and how many times."""

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
        """Say how old the picture is where the next one is late; tidy up while nobody types."""
        now = time.monotonic()
        if now - self.typed_at >= _REST_SECONDS:
            smooth.at_rest()
        age = now - self.taken_at
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
        found = now.evaluation
        if found is None or self.comparison is None:
            return
        if found.id == self.comparison.evaluation_id:
            if found.verdicts != self._verdicts:  # somebody's, here or elsewhere
                self._verdicts = found.verdicts
                self.count_verdicts()
        elif (self.comparison.evaluation_id or 0) < found.id and found.id != self._wanted:
            self._wanted = found.id
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
            # decided here a moment ago, and not yet there when it was read
            found = with_verdicts_of(known, found, self._deciding)
            found = replace(found, at=known.at, checks=known.checks)
            newer = found != known
        else:
            newer = known is None or (found is not None and (found.evaluation_id or 0) > (known.evaluation_id or 0))
        if newer:
            self.comparison = found
            smooth.loaded()
            self.hand_on(messages.ComparisonRead(found))

    def on_queries_forgotten(self, message: messages.QueriesForgotten) -> None:
        """The comparison is shown without them."""
        if self.comparison is not None:
            known = self.comparison
            queries = tuple(each for each in known.queries if each.query_id not in message.ids)
            gone = known.forgotten + len(known.queries) - len(queries)
            self.comparison = replace(known, queries=queries, forgotten=gone)
            self.hand_on(message)

    # ------------------------------------------------------------------------------------------------- verdicts

    def keep_verdict(self, query: QueryComparison) -> None:
        """Store a query's verdict and note (an empty one is taken back), after those given before it."""
        number, verdict, note = query.query_id, query.verdict, query.note
        self._deciding[number] += 1
        self.bridge.do_in_turn(
            Task(
                _DECIDE,
                lambda engine, _: engine.decide(number, verdict, note),
                result=lambda stands: messages.VerdictKept(number, verdict, stands),
            )
        )
        if self.comparison is not None:
            queries = tuple(query if each.query_id == number else each for each in self.comparison.queries)
            self.comparison = replace(self.comparison, queries=queries)

    def on_verdict_kept(self, message: messages.VerdictKept) -> None:
        """Other operators' verdicts count as well, and one of theirs may stand where one's own was taken back."""
        self._deciding -= Counter([message.query_id])  # keeps what is above 0
        self.count_verdicts()
        queries = self.comparison.queries if self.comparison is not None else ()
        query = next((each for each in queries if each.query_id == message.query_id), None)
        if message.verdict or query is None:
            return
        on, stands = f"“{safe.line(query.text, 40)}”", message.stands
        said = f"No verdict any more on {on}."
        if stands is not None:
            said = f"{safe.line(stands.who, 40)}'s verdict on {on} stands: {VERDICTS[stands.verdict][1]}."
        self.say(said, title="Verdict")

    def on_task_failed(self, message: messages.TaskFailed) -> None:
        """What was not stored is not shown either."""
        if message.name == _DECIDE:
            self._deciding.clear()
            self.count_verdicts()

    def count_verdicts(self) -> None:
        """Have all operators' verdicts on the comparison read."""
        comparison = self.comparison
        if comparison is not None:
            self.bridge.read(
                lambda engine: engine.with_verdicts(comparison), messages.VerdictsCounted, self.post_message
            )

    def on_verdicts_counted(self, message: messages.VerdictsCounted) -> None:
        """Take them, but for those that are decided here meanwhile."""
        known, found = self.comparison, message.comparison
        if known is not None and known.evaluation_id == found.evaluation_id:
            others = {each.query_id for each in known.queries} - self._deciding.keys()
            self.comparison = replace(with_verdicts_of(found, known, others), measures=found.measures)
            self.hand_on(messages.VerdictsCounted(self.comparison))


def with_verdicts_of(source: Comparison, comparison: Comparison, which: Collection[int]) -> Comparison:
    """``comparison`` with the verdicts that ``source`` has on the queries ``which``."""
    given = {query.query_id: query for query in source.queries if query.query_id in which}
    queries = tuple(
        replace(query, verdict=found.verdict, note=found.note, verdict_by=found.verdict_by)
        if (found := given.get(query.query_id)) is not None
        else query
        for query in comparison.queries
    )
    return replace(comparison, queries=queries)
