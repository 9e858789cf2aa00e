"""Every provider by name, clean, with every kind of fault, and with narrower limits than it documents."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from embedtui.demo.api import MANNERS
from tests.conftest import VARIANTS
from tests.kits.contract import CLEAN, FAULTS, LIMITS, fulfil

FAULTY = ("openai", "tei") if VARIANTS == "all" else ("openai",)
"""Those tried with every fault here, at half a minute each: two whose replies are of different forms, in the long
form; `python -m benchmarks.contract` tries all, with each fault alone."""


@pytest.mark.parametrize("provider", MANNERS)
def test_whatever_a_provider_does_rows_are_complete_and_none_is_blamed_wrongly(
    database: str, tmp_path: Path, provider: str
) -> None:
    clean = fulfil(database, provider, CLEAN, tmp_path, table="clean")
    limits = fulfil(database, provider, LIMITS, tmp_path, table="limits")
    outcomes = [clean, limits]
    if provider in FAULTY:
        outcomes.append(fulfil(database, provider, FAULTS, tmp_path, table="faults"))
    for outcome in outcomes:
        sys.stdout.write(f"{outcome}\n")
        assert not outcome.wrong, outcome
    assert clean.refused <= (provider == "litellm"), "what is known of it is known from the first request on"
    assert clean.vain <= 0.05
    assert limits.refused < 5, "a limit is found once"
