"""Tables of many kinds, and settings that name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from embedtui.config import Settings, load_settings
from embedtui.engine.plan.draft import Draft

Resolve = Callable[..., Draft]
"""Resolves flags to a draft."""

DOCUMENTS = """
CREATE TABLE documents (id bigint PRIMARY KEY, content text NOT NULL, embedding vector(3));
CREATE INDEX documents_embedding ON documents USING hnsw (embedding vector_l2_ops);
"""

MY_DOCS = """
CREATE SCHEMA app;
CREATE TABLE app."My Docs" (
    "Id" uuid DEFAULT gen_random_uuid(), "Part" int, "The Text" varchar(20), v halfvec, PRIMARY KEY ("Id", "Part"));
"""


def settings_of(folder: Path, flags: Mapping[str, Any]) -> Settings:
    """Settings with a new model of 8 dimensions unless said otherwise."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings({"new_model.name": "m", "new_model.dimensions": 8, **named}, environ={}, cwd=folder / "none")
