"""What is stored with a migration is read in one place, whatever program stored it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from embedtui.config import Settings
from embedtui.model import (
    CutoverSettings,
    GateSettings,
    IndexMethod,
    IndexSettings,
    RunState,
    Side,
    StoredSettings,
    ThrottleSettings,
)

SETTINGS: dict[str, some.SearchStrategy[Any]] = {
    "index.method": some.sampled_from([each.value for each in IndexMethod]),
    "index.m": some.integers(2, 100),
    "index.lists": some.integers(1, 1000),
    "index.maintenance_work_mem": some.just("4GB"),
    "throttle.max_replica_lag_seconds": some.just(False) | some.floats(0, 1e6),
    "throttle.max_lock_waits": some.just(False) | some.integers(0, 100),
    "throttle.hold_for_autovacuum": some.booleans(),
    "gate.min_queries": some.integers(1, 1000),
    "gate.max_drift": some.floats(0, 1),
    "gate.where": some.text(),
    "cutover.strategy": some.sampled_from(["pointer", "env_file", "hook", "rename"]),
    "cutover.soak_days": some.floats(0, 100),
    "change_capture": some.sampled_from(["triggers", "scan"]),
    "foreign_key": some.booleans(),
    "trust_application": some.booleans(),
    "fire_triggers": some.booleans(),
}


@given(some.fixed_dictionaries({}, optional=SETTINGS))
def test_what_was_set_is_what_is_read(values: dict[str, Any]) -> None:
    settings = Settings().with_values(values, "test")
    stored = StoredSettings.of(json.loads(json.dumps(settings.stored())))
    for each in fields(StoredSettings):
        assert getattr(stored, each.name) == getattr(settings, each.name)


@given(some.fixed_dictionaries({}, optional=SETTINGS), some.text(min_size=1), some.integers() | some.none())
def test_what_a_newer_program_stored_is_left_out(values: dict[str, Any], name: str, value: int | None) -> None:
    stored = Settings().with_values(values, "test").stored()
    newer = json.loads(json.dumps(stored))
    for section in ("index", "throttle", "gate", "cutover"):
        newer[section].setdefault(f"new {name}", value)
    newer.setdefault(f"new {name}", value)
    assert StoredSettings.of(newer) == StoredSettings.of(stored)


def test_what_an_older_program_did_not_store_has_its_default() -> None:
    assert StoredSettings.of({}) == StoredSettings()
    older = {"index": {"method": "hnsw", "m": None, "ef_construction": None, "lists": None}, "gate": {"min_queries": 5}}
    assert StoredSettings.of(older) == StoredSettings(gate=GateSettings(min_queries=5))


def test_off_is_kept() -> None:
    stored = StoredSettings.of({"throttle": asdict(ThrottleSettings()) | {"max_replica_lag_seconds": None}})
    assert stored.throttle.max_replica_lag_seconds is None
    assert (stored.index, stored.cutover) == (IndexSettings(), CutoverSettings())


@pytest.mark.parametrize(
    ("stored", "state"),
    [
        ({}, RunState()),
        ({"index_held": True, "gate": {}}, RunState(index_held=True)),
        ({"gone": "old", "index_held": False}, RunState(gone=Side.OLD)),
        ({"gone": ""}, RunState()),
        ({"cleanup": {"contracted": True}, "gone": "new"}, RunState(gone=Side.NEW)),
    ],
)
def test_run_state(stored: dict[str, object], state: RunState) -> None:
    assert RunState.of(stored) == state
