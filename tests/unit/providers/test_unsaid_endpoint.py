"""Beside a gateway nothing goes to a provider's own endpoint by nobody's word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embedtui.config import Settings
from embedtui.engine.local_settings import as_set_here
from embedtui.model import EmbeddingModel
from embedtui.providers import unsaid_endpoint
from tests.kits.samples import sample_migration

GATEWAY, OWN = "https://gateway.example/v1", "https://api.openai.com/v1"
OLD, NEW = EmbeddingModel("text-embedding-3-small", 1536), EmbeddingModel("text-embedding-3-large", 3072)


@pytest.mark.parametrize(
    ("old", "new", "environ", "side"),
    [
        ({}, {"base_url": GATEWAY}, {}, "old"),
        ({"base_url": GATEWAY}, {}, {}, "new"),
        ({}, {}, {}, None),
        ({}, {"base_url": f"{OWN}/"}, {}, None),
        ({"base_url": OWN}, {"base_url": GATEWAY}, {}, None),
        ({"retired": True}, {"base_url": GATEWAY}, {}, None),
        ({}, {"base_url": GATEWAY}, {"OPENAI_BASE_URL": GATEWAY}, None),
        ({"provider": "cohere"}, {"base_url": GATEWAY}, {}, None),
    ],
)
def test_whose_endpoint_nobody_said(
    old: dict[str, object], new: dict[str, object], environ: dict[str, str], side: str | None
) -> None:
    found = unsaid_endpoint(replace(OLD, **old), replace(NEW, **new), environ)  # type: ignore[arg-type]
    assert (found[0] if found else None) == side
    assert not found or f"{side}_model.base_url: to {GATEWAY}, or {OWN}" in found[1][1]


def test_a_migration_under_way_does_not_ask_it_either() -> None:
    settings = Settings().with_values({"new_model.base_url": GATEWAY}, "embedtui.toml")
    here = as_set_here(replace(sample_migration(), old_model=OLD, new_model=NEW), settings, {})
    assert here.new_model.base_url == GATEWAY and here.new_model.unusable is None
    assert here.old_model.unusable is not None and OLD.name in here.old_model.unusable[0]
