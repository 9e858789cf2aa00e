"""What a migration's state allows: the one home of the rule, for the engine's guards and for both faces. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from embedtui.errors import Remedy
from embedtui.formatting import counted, duration
from embedtui.model.migration import Migration
from embedtui.model.plan import Check
from embedtui.model.route import RouteStatus
from embedtui.model.snapshot import Blocker, EvaluationStatus, Hold, Snapshot
from embedtui.model.words import Command, Condition, IndexMethod, Phase, Side, hold_word

QUEUE_COUNTED = 100_000
"""The queue is counted no further than this."""
LEFT_BEHIND_SECONDS = 2.0
"""A change that waited so long while no worker lives is nobody's."""

HELD_UNTIL = {"spend_cap": "until it is raised", "index": "until it is released"}
"""Holds that do not lift themselves, and what an operator has to do."""

_ORDER = tuple(Phase)
_BEFORE_INDEX = (Phase.PLAN, Phase.PREPARE, Phase.BACKFILL)
_SWITCHED = (Phase.VALIDATE, Phase.CUTOVER, Phase.SOAK, Phase.CLEANUP)
"""Phases in which the pointer may move: one of cleanup with the old side in charge is that of one taken back."""
_ARCHIVE = "An archive, where one was made, holds its vectors."
_EVER = datetime.min.replace(tzinfo=UTC)


def as_stored(migration: Migration | None, route: RouteStatus | None = None) -> Snapshot:
    """As much of a snapshot as :func:`refusal` looks at, for who has no whole one."""
    if migration is None:
        return Snapshot(_EVER)
    return Snapshot(_EVER, migration, migration.phase, migration.condition, route=route or RouteStatus())


def refusal(command: Command, snapshot: Snapshot) -> Blocker | None:
    """Why the state forbids ``command``, whoever asks and with whatever reason; None where it allows it.

    What else may stand against it (the gate, rows at stake) takes the database to tell: ``Engine.blockers``.
    """
    if snapshot.migration is None:
        if command is Command.RUN:
            return None
        return Blocker("no migration", "No migration has begun in this database.", "Start it.", remedies=(Remedy.RUN,))
    rule = _RULES.get(command)
    found = rule(snapshot) if rule is not None else ended(snapshot)
    return found and replace(found, remedies=possible(found.remedies, snapshot))


def possible(remedies: tuple[Remedy, ...], snapshot: Snapshot) -> tuple[Remedy, ...]:
    """``remedies`` as they help in this state: while it is paused no run does anything before that is lifted."""
    if snapshot.migration is None or snapshot.migration.desired != "pause":
        return remedies
    alive = any(worker.alive for worker in snapshot.workers)
    found: list[Remedy] = []
    for each in remedies:
        runs = each in (Remedy.RUN, Remedy.FOLLOW)
        found += [Remedy.RESUME] if runs else []
        found += [] if runs and alive else [each]
    return tuple(dict.fromkeys(found))


def mended(check: Check, snapshot: Snapshot) -> Check:
    """``check`` with what mends it in this state: a recorded one was made in another."""
    void = snapshot.evaluation is not None and not snapshot.evaluation.valid
    if void and Remedy.RUN in check.remedies and _holds(check.name, snapshot):
        return replace(check, hint="Done since. Compare again.", remedies=(Remedy.COMPARE,))
    return replace(check, remedies=possible(check.remedies, snapshot))


def _holds(name: str, snapshot: Snapshot) -> bool:
    """Whether what a check by this name asks for, and a worker does, is done."""
    rows, total = snapshot.backfill.rows, snapshot.backfill.total
    filled = snapshot.phase not in _BEFORE_INDEX and total is not None and rows + snapshot.sync.queued >= total
    synced = filled and not snapshot.late
    return {"coverage": filled, "freshness": synced, "index": snapshot.index.valid}.get(name, False)


def unneeded(command: Command, snapshot: Snapshot) -> Blocker | None:
    """Why ``command`` is refused, or allowed and yet to no use or too early now: what no screen offers."""
    found = refusal(command, snapshot)
    if found is None and command is not Command.ROLLBACK:
        found = ended(snapshot)
    if found is not None or command not in _USES:
        return found
    message = _USES[command](snapshot)
    return Blocker(command.value, message, overridable=True) if message else None


def next_action(snapshot: Snapshot) -> tuple[str, str]:
    """The next sensible action and why; ``wait``, ``watch`` and ``faults`` where that is none of :class:`Command`.

    Empty where nothing is left to do. An action that it names is never refused.
    """
    phase = snapshot.phase
    if snapshot.migration is None:
        return Command.RUN, "Nothing is migrated yet: see the plan, then run it."
    if phase is Phase.DONE:
        if snapshot.migration.run_state.gone is Side.OLD:
            return "", "Done. The log stays, and the pointer."
        return "", f"Done: {snapshot.migration.new_column} serves. The old column stays as it was; the log, too."
    if phase is Phase.ABORTED:
        return "", "Aborted: the old side serves; see `embedtui log`."
    if snapshot.route.ending == "abort":
        return Command.ABORT, "An abort has begun: run it again if it was interrupted."
    if snapshot.condition is Condition.FAILED:
        return _after_failure(snapshot, paused=snapshot.migration.desired != "run")
    if snapshot.condition is Condition.PAUSED:
        return Command.RESUME, "Paused by an operator."
    if phase in (*_BEFORE_INDEX, Phase.INDEX):
        dead = snapshot.old_gone and snapshot.route.active is Side.OLD and not snapshot.route.bridging
        if dead and refusal(Command.BRIDGE, snapshot) is None:
            return ("wait" if snapshot.bridge_work else Command.BRIDGE), f"{snapshot.old_gone}."
        if snapshot.condition is Condition.IDLE:
            return Command.RUN, f"No worker is at work: run it{_done(snapshot)}."
        if phase is Phase.INDEX and snapshot.migration.index_held:
            return Command.INDEX, "The index is held back: build it now, or release it for the workers."
        if held := _held(snapshot):
            return "wait", held
        return "wait", "The work is under way." if phase in _BEFORE_INDEX else "The index is being built."
    if snapshot.route.active is Side.NEW and phase is Phase.CLEANUP:
        return Command.CLEANUP, "A cleanup was interrupted: run it again to complete it."
    if held := _held(snapshot):
        return "wait", held
    if snapshot.route.active is Side.NEW:
        if _left_behind(snapshot):
            waiting = changes_waiting(snapshot.sync.queued)
            return Command.RUN, f"No worker keeps the sides in sync: {waiting}, and a rollback would be stale."
        return "watch", _soaking(snapshot)
    if snapshot.faulty:
        return "faults", f"{counted(snapshot.faulty, 'row is', 'rows are')} faulty: retry, shorten or skip."
    if _left_behind(snapshot):
        return Command.RUN, f"No worker keeps the new side in sync: {changes_waiting(snapshot.sync.queued)}."
    evaluation = snapshot.evaluation
    if evaluation is None:
        return Command.COMPARE, "Compare old and new before the switch."
    if not evaluation.valid:
        return Command.COMPARE, f"Compare again: {evaluation.why_void}"
    if evaluation.verdict != "PASS":
        return Command.COMPARE, gate_says(evaluation, lambda check: check.advice)
    if snapshot.route.canary:
        share = f"{snapshot.route.canary} % of the keys read the new side"
        return Command.CUTOVER, f"{share}: watch them, then move the rest."
    near = f" Soon: {evaluation.near_void}." if evaluation.near_void else ""
    return Command.CUTOVER, f"The gate passed: cut over when ready.{near}"


def _after_failure(snapshot: Snapshot, *, paused: bool) -> tuple[str, str]:
    reason = snapshot.reasons[0].detail if snapshot.reasons else ""
    if not paused:
        return Command.RUN, f"The last worker ended by an error: mend it, then run. {reason}"
    if not any(worker.alive for worker in snapshot.workers):  # a run lifts the pause itself
        return Command.RUN, f"Mend this, then run, which tries again: {reason}"
    return Command.RESUME, f"Mend this, then resume: {reason}"


def _done(snapshot: Snapshot) -> str:
    """What of the backfill is done already, if only a bridge's sample."""
    rows = snapshot.backfill.rows
    return f"; {counted(rows, 'row is', 'rows are')} embedded already" if rows else ""


def _soaking(snapshot: Snapshot) -> str:
    searches = "searches" if snapshot.route.listeners else "your application's searches, which no Router counts,"
    key = f"one key ({snapshot.lands})" if snapshot.lands else "one key"
    return f"Soaking: watch {searches} and faults; roll back with {key} if anything looks wrong."


def held_until(holds: Iterable[Hold]) -> str:
    """Name of the first hold that somebody has to lift; empty where all go by themselves."""
    return next((hold.name for hold in holds if hold.stops and hold.name in HELD_UNTIL), "")


def _held(snapshot: Snapshot) -> str:
    """What an operator has to lift before the work goes on, as a sentence; empty where nothing is."""
    name = held_until(snapshot.reasons) if snapshot.condition is Condition.THROTTLED else ""
    return f"Held back by {hold_word(name)}: {HELD_UNTIL[name]}." if name else ""


def gate_says(evaluation: EvaluationStatus, mended: Callable[[Check], str]) -> str:
    """Its verdict, the check that weighs most, and by what that is ``mended``."""
    if not evaluation.checks:
        return f"The gate says {evaluation.verdict}: look at the checks."
    worst = evaluation.checks[0]
    return f"The gate says {evaluation.verdict} ({worst.name}): {worst.detail} {mended(worst)}".rstrip()


def changes_waiting(queued: int) -> str:
    """The queue in words, counted as far as it is."""
    if queued >= QUEUE_COUNTED:
        return f"{queued:,} changes or more wait"
    return counted(queued, "change waits", "changes wait")


def so_now(snapshot: Snapshot) -> tuple[str, ...]:
    """What is so at this moment, for who is about to move reads: holds first, then what waits, lacks or is old."""
    held = [f"Held back by {hold_word(each.name)}: {each.detail}" for each in snapshot.reasons if each.stops]
    queued, oldest, gate = snapshot.sync.queued, snapshot.sync.oldest_seconds, snapshot.evaluation
    waits = f"{changes_waiting(queued)} for new vectors" if queued else "No change waits for a new vector"
    waits += f", the oldest for {duration(oldest)}" if queued and oldest is not None else ""
    missing = max(0, (snapshot.backfill.total or 0) - snapshot.backfill.rows)
    lacking = counted(missing, "row has", "rows have") + " no new vector" if missing else ""
    age = duration(max(0.0, (snapshot.as_of - gate.at).total_seconds())) if gate is not None else ""
    figures = f"The gate's figures are {age} old" if age else ""
    return tuple(
        f"{each.rstrip('.')}." for each in (*held, waits, lacking, snapshot.rollback.sentence, figures) if each
    )


def _left_behind(snapshot: Snapshot) -> bool:
    """Changes wait, and nobody is there to embed them."""
    oldest = snapshot.sync.oldest_seconds
    return snapshot.condition is Condition.IDLE and oldest is not None and oldest > LEFT_BEHIND_SECONDS


def _before(snapshot: Snapshot, phase: Phase) -> bool:
    return _ORDER.index(snapshot.phase) < _ORDER.index(phase)


# ------------------------------------------------------------------------------------------- what the state forbids


def ended(snapshot: Snapshot) -> Blocker | None:
    """Why nothing more can happen in this migration; None while it is under way."""
    if not snapshot.phase.ended:
        return None
    table = f" of {snapshot.migration.table}" if snapshot.migration else ""
    return Blocker("ended", f"The migration{table} is {snapshot.phase}.")


def _without_index(snapshot: Snapshot) -> Blocker | None:
    if snapshot.migration is None or snapshot.migration.index_method is not IndexMethod.NONE:
        return None
    return Blocker("index_method", "This migration is set to have no index: searches stay exact.")


def _build(snapshot: Snapshot) -> Blocker | None:
    if snapshot.phase in (Phase.PLAN, Phase.PREPARE):
        hint = "Run the migration first."
        return Blocker("phase", "There is no new side to index yet.", hint)
    return ended(snapshot)


def _hold(snapshot: Snapshot) -> Blocker | None:
    if found := ended(snapshot) or _without_index(snapshot):
        return found
    if _before(snapshot, Phase.VALIDATE):
        return None
    return Blocker("phase", f"The migration is in phase {snapshot.phase}: the workers build no index any more.")


def _compare(snapshot: Snapshot) -> Blocker | None:
    if _before(snapshot, Phase.BACKFILL):
        return Blocker("phase", "Nothing to compare yet: no row has a new vector.", remedies=(Remedy.RUN,))
    return ended(snapshot)


def _verify(snapshot: Snapshot) -> Blocker | None:
    """Also once all is done, when it matters most: what is left to be known is counted."""
    return None if snapshot.phase is Phase.DONE else ended(snapshot)


def _cutover(snapshot: Snapshot) -> Blocker | None:
    if snapshot.route.ending == "abort":
        return Blocker("phase", "The migration is being aborted.", "Complete that.", remedies=(Remedy.ABORT,))
    if snapshot.phase in _SWITCHED:
        return None
    message = f"The migration is in phase {snapshot.phase}; a cutover needs validate."
    return ended(snapshot) or Blocker("phase", message, remedies=(Remedy.RUN,))


def _rollback(snapshot: Snapshot) -> Blocker | None:
    """At once, whatever else goes on: only where there is nothing to go back from, or to."""
    if snapshot.phase is Phase.ABORTED:
        return Blocker("phase", "The migration was aborted: the old side serves.")
    if snapshot.migration is not None and snapshot.migration.run_state.gone is Side.OLD:
        return old_side_dropped(snapshot)
    if snapshot.phase is Phase.DONE:
        table = f" of {snapshot.migration.table}" if snapshot.migration else ""
        why = f"The migration{table} is done: nothing has kept its old vectors current since."
        return Blocker("cleaned", why, "What is written since has none. Begin a migration back to the old model.")
    return None


def old_side_dropped(snapshot: Snapshot) -> Blocker:
    """Why nothing can be rolled back where the old side is gone: what is left to do is the rest of the cleanup."""
    table = f" of {snapshot.migration.table}" if snapshot.migration else ""
    why = f"The old side{table} has been dropped by the cleanup."
    if snapshot.phase is Phase.DONE:
        rest = "A cleanup that was interrupted is completed by another one."
        return Blocker("cleaned", f"{why} There is nothing to go back to.", f"{_ARCHIVE} {rest}")
    return Blocker("cleaned", why, f"{_ARCHIVE} Complete the cleanup.", remedies=(Remedy.CLEANUP,))


def _bridge(snapshot: Snapshot) -> Blocker | None:
    if snapshot.route.ending == "abort":
        return Blocker("phase", "The migration is being aborted.", "Complete that.", remedies=(Remedy.ABORT,))
    if snapshot.route.ending == "cleanup":
        return Blocker("phase", "The cleanup has begun.", "Take it back.", remedies=(Remedy.ROLLBACK,))
    return ended(snapshot)


def _cleanup(snapshot: Snapshot) -> Blocker | None:
    if snapshot.phase is Phase.ABORTED or snapshot.route.ending == "abort":
        return Blocker("phase", "The migration is being aborted.", "Complete that.", remedies=(Remedy.ABORT,))
    if snapshot.phase is Phase.DONE or snapshot.route.active is Side.NEW:
        return None
    return Blocker("route", "The new side does not serve yet.", "Cut over first, and let it soak.")


def _abort(snapshot: Snapshot) -> Blocker | None:
    route = snapshot.route
    if snapshot.phase is Phase.DONE or route.ending == "cleanup":
        dropped = snapshot.phase is Phase.DONE
        remedies = (Remedy.CLEANUP,) if dropped else (Remedy.ROLLBACK, Remedy.CLEANUP)
        way = "Complete it." if dropped else "Take it back, or complete it."
        return Blocker("phase", "The cleanup has begun.", way, remedies=remedies)
    begun = snapshot.phase is Phase.ABORTED or route.ending == "abort"
    if not begun and route.bridged:
        return Blocker("bridge", "Searches go through the bridge.", "End that first: `embedtui bridge --off`.")
    if not begun and (route.active is Side.NEW or route.canary):
        return Blocker("route", "Production reads the new side.", "Roll back first.", remedies=(Remedy.ROLLBACK,))
    return None


_RULES: dict[Command, Callable[[Snapshot], Blocker | None]] = {
    Command.INDEX: _build,
    Command.HOLD_INDEX: _hold,
    Command.COMPARE: _compare,
    Command.VERIFY: _verify,
    Command.CUTOVER: _cutover,
    Command.ROLLBACK: _rollback,
    Command.BRIDGE: _bridge,
    Command.CLEANUP: _cleanup,
    Command.ABORT: _abort,
}
"""What an action asks of the state; all others, that the migration is under way."""


# ------------------------------------------------------------------------------------------------- what is of no use


def _index_unneeded(snapshot: Snapshot) -> str:
    if found := _without_index(snapshot):
        return found.message
    if _before(snapshot, Phase.INDEX):
        return "The index is built once every row is embedded; before that it would slow the backfill many times over."
    return "The index is there and valid." if snapshot.index.valid else ""


def _pause_unneeded(snapshot: Snapshot) -> str:
    desired = snapshot.migration.desired if snapshot.migration else "run"
    failed = snapshot.condition is Condition.FAILED and desired != "pause"
    return "It has failed, there is nothing to pause: mend what it names, then run." if failed else ""


def _pace_unneeded(snapshot: Snapshot) -> str:
    idle = "Only a backfill that is under way can be made faster or slower; limits can be set at any time."
    return idle if snapshot.backfill.concurrency is None else ""


_USES: dict[Command, Callable[[Snapshot], str]] = {
    Command.PAUSE: _pause_unneeded,
    Command.INDEX: _index_unneeded,
    Command.CUTOVER: lambda at: "The new side serves all reads already." if at.route.active is Side.NEW else "",
    Command.CANCEL_CUTOVER: lambda at: "" if at.route.pending else "No cutover is postponed.",
    Command.CONCURRENCY: _pace_unneeded,
}
"""Why an action that is allowed would do nothing, or harm."""
