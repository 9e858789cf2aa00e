"""What a state allows: a table of it, and what holds for every state."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedtui.errors import Remedy
from embedtui.model import (
    BackfillStatus,
    Command,
    Condition,
    EvaluationStatus,
    FaultClass,
    FaultGroup,
    FaultState,
    Hold,
    IndexMethod,
    IndexStatus,
    ListenerStatus,
    Phase,
    RouteStatus,
    Side,
    Snapshot,
    SyncStatus,
    WorkerStatus,
)
from embedtui.model.lifecycle import as_stored, next_action, possible, refusal, unneeded
from tests.kits.samples import sample_migration

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MIGRATION = sample_migration(phase=Phase.PREPARE, condition=Condition.IDLE)
LIVE = [phase for phase in Phase if not phase.ended]
ON_OLD, CANARY, ON_NEW = RouteStatus(), RouteStatus(Side.OLD, 5), RouteStatus(Side.NEW, 100)


def at(phase: Phase, route: RouteStatus = ON_OLD, method: IndexMethod = IndexMethod.HNSW) -> Snapshot:
    return as_stored(replace(MIGRATION, phase=phase, index_method=method), route)


ALLOWED: list[tuple[Command, RouteStatus, list[Phase]]] = [
    *[(each, ON_OLD, LIVE) for each in (Command.PAUSE, Command.RESUME, Command.PACE, Command.FAULTS)],
    (Command.VERIFY, ON_NEW, [*LIVE, Phase.DONE]),
    (Command.RUN, ON_OLD, LIVE),
    (Command.COMPARE, ON_OLD, LIVE[2:]),
    (Command.INDEX, ON_OLD, LIVE[2:]),
    (Command.HOLD_INDEX, ON_OLD, LIVE[:4]),
    (Command.CUTOVER, ON_OLD, LIVE[4:]),
    (Command.ROLLBACK, ON_NEW, LIVE),
    (Command.CLEANUP, ON_OLD, [Phase.DONE]),
    (Command.CLEANUP, ON_NEW, [*LIVE, Phase.DONE]),
    (Command.CLEANUP, replace(ON_OLD, ending="abort"), []),
    (Command.ABORT, ON_OLD, [*LIVE, Phase.ABORTED]),
    (Command.ABORT, CANARY, [Phase.ABORTED]),
    (Command.ABORT, ON_NEW, [Phase.ABORTED]),
    (Command.ABORT, replace(ON_NEW, ending="cleanup"), []),
    (Command.CUTOVER, replace(ON_OLD, ending="abort"), []),
    (Command.BRIDGE, ON_OLD, LIVE),
    (Command.BRIDGE, CANARY, LIVE),
    (Command.BRIDGE, ON_NEW, LIVE),
    (Command.BRIDGE, replace(ON_NEW, ending="cleanup"), []),
    (Command.BRIDGE, replace(ON_OLD, ending="abort"), []),
    (Command.ABORT, replace(ON_OLD, bridging=True, bridge=1), [Phase.ABORTED]),
]


@pytest.mark.parametrize(("command", "route", "phases"), ALLOWED, ids=str)
def test_a_command_is_allowed_in_its_phases_and_no_others(
    command: Command, route: RouteStatus, phases: list[Phase]
) -> None:
    assert [phase for phase in Phase if refusal(command, at(phase, route)) is None] == phases


@pytest.mark.parametrize("command", Command)
def test_without_a_migration_there_is_only_the_run(command: Command) -> None:
    assert (refusal(command, as_stored(None)) is None) == (command is Command.RUN)
    assert unneeded(command, as_stored(None)) == refusal(command, as_stored(None))


@pytest.mark.parametrize(
    ("command", "snapshot", "message"),
    [
        (Command.INDEX, at(Phase.BACKFILL), "slow the backfill"),
        (Command.INDEX, replace(at(Phase.INDEX), index=IndexStatus(valid=True)), "there and valid"),
        (Command.INDEX, at(Phase.INDEX, method=IndexMethod.NONE), "no index"),
        (Command.CUTOVER, at(Phase.SOAK, ON_NEW), "serves all reads"),
        (Command.CANCEL_CUTOVER, at(Phase.VALIDATE), "No cutover is postponed"),
        (Command.CONCURRENCY, at(Phase.VALIDATE), "under way"),
        (Command.PAUSE, replace(at(Phase.BACKFILL), condition=Condition.FAILED), "nothing to pause"),
        (Command.CLEANUP, at(Phase.DONE, ON_NEW), "is done"),
        (Command.ABORT, at(Phase.ABORTED), "is aborted"),
    ],
)
def test_what_is_allowed_and_of_no_use_is_not_offered(command: Command, snapshot: Snapshot, message: str) -> None:
    assert refusal(command, snapshot) is None
    found = unneeded(command, snapshot)
    assert found is not None and message in found.message


@pytest.mark.parametrize(
    ("command", "snapshot"),
    [
        (Command.INDEX, at(Phase.INDEX)),
        (Command.CANCEL_CUTOVER, at(Phase.VALIDATE, replace(ON_OLD, pending="when the queue is empty"))),
        (Command.CONCURRENCY, replace(at(Phase.BACKFILL), backfill=BackfillStatus(concurrency=2))),
        (Command.ROLLBACK, at(Phase.PREPARE)),
    ],
)
def test_what_is_of_use_is_offered(command: Command, snapshot: Snapshot) -> None:
    assert unneeded(command, snapshot) is None


def test_nothing_is_rolled_back_to_a_side_that_is_gone() -> None:
    for phase in (Phase.CLEANUP, Phase.DONE):
        gone = replace(at(phase, ON_NEW), migration=replace(MIGRATION, phase=phase, settings={"gone": "old"}))
        found = refusal(Command.ROLLBACK, gone)
        assert found is not None and "dropped by the cleanup" in found.message
        assert bool(found.remedies) == (phase is Phase.CLEANUP), "once it is complete nothing is left to complete"


evaluations = st.none() | st.builds(
    EvaluationStatus,
    st.just(1), st.just(NOW), st.just(9), st.just(0.9), st.just(0), st.sampled_from(["PASS", "FAIL", "INCONCLUSIVE"]),
    st.booleans(), st.just("the content changed"),
)  # fmt: skip


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Any state, consistent or not: an old program, a kill or a hand may have made it."""
    phase, condition = draw(st.sampled_from(Phase)), draw(st.sampled_from(Condition))
    migration = replace(
        MIGRATION,
        phase=phase,
        index_method=draw(st.sampled_from(IndexMethod)),
        desired=draw(st.sampled_from(["run", "pause"])),
    )
    canary = draw(st.integers(0, 100))
    return Snapshot(
        NOW,
        migration,
        phase,
        condition,
        draw(st.sampled_from([(), (Hold("failure", "wrong key"),)])),
        backfill=BackfillStatus(concurrency=draw(st.none() | st.integers(1, 8))),
        index=IndexStatus(valid=draw(st.booleans())),
        sync=SyncStatus(draw(st.integers(0, 200_000)), draw(st.none() | st.floats(0, 1e6))),
        faults=draw(st.sampled_from([(), (FaultGroup(FaultClass.ROW, "too long", 2, FaultState.OPEN),)])),
        route=RouteStatus(
            draw(st.sampled_from(Side)),
            canary,
            pending=draw(st.sampled_from(["", "100 % when the queue is empty"])),
            ending=draw(st.sampled_from([None, "cleanup", "abort"])),
            bridging=draw(st.booleans()),
        ),
        old_gone=draw(st.sampled_from(["", "text-embedding-004 is retired"])),
        evaluation=draw(evaluations),
    )


DEAD = replace(at(Phase.BACKFILL), old_gone="old is retired")
ON_IT = WorkerStatus(1, "here", 7, "bridge: fitting", NOW, 0.1, True)


@pytest.mark.parametrize(
    ("snapshot", "act"),
    [
        (DEAD, "bridge"),
        (replace(DEAD, condition=Condition.RUNNING), "bridge"),
        (replace(DEAD, old_gone=""), "run"),
        (replace(DEAD, workers=(ON_IT,)), "wait"),
        (replace(DEAD, workers=(replace(ON_IT, alive=False),)), "bridge"),
        (replace(DEAD, route=RouteStatus(bridging=True, bridge=1)), "run"),
        (replace(DEAD, route=ON_NEW), "run"),
        (replace(at(Phase.VALIDATE), old_gone="old is retired"), "compare"),
        (replace(DEAD, condition=Condition.PAUSED), "resume"),
    ],
)
def test_a_dead_old_model_is_bridged_until_the_new_side_is_whole(snapshot: Snapshot, act: str) -> None:
    assert next_action(snapshot)[0] == act


def test_searches_that_no_router_counts_are_not_told_to_be_watched_here() -> None:
    heard = ListenerStatus("web", 7, "shop", 2, 0, 9, 0.1)
    assert "which no Router counts" in next_action(at(Phase.SOAK, ON_NEW))[1]
    assert "watch searches and" in next_action(at(Phase.SOAK, replace(ON_NEW, listeners=(heard,))))[1]


@given(snapshots() | st.just(Snapshot(NOW)))
def test_the_next_action_is_never_refused_and_always_has_a_reason(snapshot: Snapshot) -> None:
    name, why = next_action(snapshot)
    assert why
    if name in set(Command):
        assert refusal(Command(name), snapshot) is None
        assert unneeded(Command(name), snapshot) is None
    else:
        assert name in ("", "wait", "watch", "faults")


@given(st.sampled_from(Command), snapshots() | st.just(Snapshot(NOW)))
def test_every_refusal_has_its_reason_and_what_is_refused_is_not_offered(command: Command, snapshot: Snapshot) -> None:
    refused, useless = refusal(command, snapshot), unneeded(command, snapshot)
    if refused is not None:
        assert refused.message.endswith(".") and not refused.overridable
        assert useless == refused
    if useless is not None:
        assert useless.message


def test_a_run_is_no_remedy_while_it_is_paused() -> None:
    paused = replace(at(Phase.BACKFILL), migration=replace(MIGRATION, phase=Phase.BACKFILL, desired="pause"))
    given = (Remedy.REPAIR, Remedy.FOLLOW)
    assert possible(given, at(Phase.BACKFILL)) == given
    assert possible(given, paused) == (Remedy.REPAIR, Remedy.RESUME, Remedy.FOLLOW)
    worked = replace(paused, workers=(WorkerStatus(1, "host", 1, "idle", NOW, 0.0, True, 0, (), False),))
    assert possible(given, worked) == (Remedy.REPAIR, Remedy.RESUME)
    assert (found := refusal(Command.CUTOVER, worked)) is not None and found.remedies == (Remedy.RESUME,)
