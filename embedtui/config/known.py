"""What is public about well-known models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LOCAL_ONLY = (
    "old_model.base_url",
    "old_model.key_variable",
    "new_model.base_url",
    "new_model.key_variable",
    "throttle.probe_query",
    "gate.where",
    "cutover.env_file",
    "cutover.hook",
    "cutover.hook_variables",
)
"""Settings that act on the machine, or with the rights, of whoever runs embedtui: a command, a file, where texts and
keys are sent, SQL. They are stored to be seen, and followed only where this machine's own settings say them."""

CHARACTERS_PER_TOKEN = 4.0
"""Of English text; the guess until a provider's ``usage`` calibrates it."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is public about a model; every figure can be overridden in the settings."""

    dimensions: int
    """By nature."""
    price_per_million: float | None
    """US dollars per million tokens."""
    shortens: bool = True
    """Accepts ``dimensions``."""
    max_inputs: int = 2048
    max_tokens: int = 300_000
    max_input_tokens: int = 8192
    provider: str = "openai"
    key_variable: str = "OPENAI_API_KEY"
    retired: str = ""
    """Date of its shutdown."""


_GEMINI = {
    "provider": "gemini",
    "key_variable": "GEMINI_API_KEY",
    "max_inputs": 100,
    "max_input_tokens": 2048,
}

KNOWN_MODELS: Mapping[str, KnownModel] = {
    "text-embedding-3-small": KnownModel(1536, 0.02),
    "text-embedding-3-large": KnownModel(3072, 0.13),
    "text-embedding-ada-002": KnownModel(1536, 0.10, shortens=False),
    "gemini-embedding-001": KnownModel(3072, 0.15, **_GEMINI),  # type: ignore[arg-type]
    "text-embedding-004": KnownModel(768, None, retired="2026-01-14", **_GEMINI),  # type: ignore[arg-type]
}
"""Prices of the standard tier, per million tokens; they change: ``new_model.price_per_million`` overrides them.

Checked in November 2026: OpenAI's 3-large and 3-small at developers.openai.com/api/docs/models/text-embedding-3-large;
ada-002 at openrouter.ai/openai/text-embedding-ada-002 (list price passed on); gemini-embedding-001 at
vercel.com/ai-gateway/models/gemini-embedding-001 and, with text-embedding-004's shutdown, in Google's announcement as
quoted in github.com/simonw/llm-gemini/issues/102.
"""
