"""Size, limits and price of well-known models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from embedtui.known.providers import provider


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is public about a model; every figure can be overridden in the settings."""

    dimensions: int
    """By nature."""
    price_per_million: float | None
    """US dollars per million tokens, at its own provider; None where not known."""
    provider: str = "openai"
    shortens: bool = True
    """Can give fewer dimensions when asked."""
    max_inputs: int | None = None
    """Where it is another than the provider's; so the next two."""
    max_tokens: int | None = None
    max_input_tokens: int | None = None
    price_from: str = ""
    """The provider's page of prices."""
    dimensions_from: str = "litellm 1.110.2"
    """Where ``dimensions`` is from; ``unchecked`` where it is common knowledge, and no list that was read has it."""


SIZES_CHECKED = "2026-11-27"
"""Day on which dimensions, and tokens of one text, were compared with litellm 1.110.2, whether a model shortens is
unchecked. What is wrong of it is found by the first request, before anything is made, and can be set."""
PRICES_CHECKED = "2026-11-27"
"""Day of the public price lists that these were compared with, of the standard tier; ``price_per_million`` overrides.

litellm 1.110.2 has every one of them and agrees; genai-prices 0.2.3 agrees on all but Cohere's v3, which it lacks.
``price_from`` is the provider's own page, to look again. Neither list is a dependency: the second is kept well, but is
1.6 MB and brings pydantic for a dozen figures that an operator may override anyway; `tests/unit/known` compares with it
where it is installed.
"""

_OPENAI = "developers.openai.com/api/docs/pricing"
_GEMINI = "ai.google.dev/gemini-api/docs/pricing"
_VOYAGE = "docs.voyageai.com/docs/pricing"
_COHERE = "cohere.com/pricing"
_MISTRAL = "docs.mistral.ai/inference/pricing"
_UNCHECKED = "unchecked"
_BEDROCK = "aws.amazon.com/bedrock/pricing"

KNOWN_MODELS: Mapping[str, KnownModel] = {
    "text-embedding-3-small": KnownModel(1536, 0.02, price_from=_OPENAI),
    "text-embedding-3-large": KnownModel(3072, 0.13, price_from=_OPENAI),
    "text-embedding-ada-002": KnownModel(1536, 0.10, shortens=False, price_from=_OPENAI),
    "gemini-embedding-001": KnownModel(3072, 0.15, "gemini", price_from=_GEMINI),
    "text-embedding-004": KnownModel(768, None, "gemini"),
    "voyage-4-large": KnownModel(1024, 0.12, "voyage", price_from=_VOYAGE),
    "voyage-4": KnownModel(1024, 0.06, "voyage", max_tokens=320_000, price_from=_VOYAGE),
    "voyage-4-lite": KnownModel(1024, 0.02, "voyage", max_tokens=1_000_000, price_from=_VOYAGE),
    "voyage-3-large": KnownModel(1024, 0.18, "voyage", price_from=_VOYAGE, dimensions_from=_UNCHECKED),
    "voyage-3.5": KnownModel(1024, 0.06, "voyage", max_tokens=320_000, price_from=_VOYAGE, dimensions_from=_UNCHECKED),
    "voyage-3.5-lite": KnownModel(
        1024, 0.02, "voyage", max_tokens=1_000_000, price_from=_VOYAGE, dimensions_from=_UNCHECKED
    ),
    "embed-v4.0": KnownModel(1536, 0.12, "cohere", price_from=_COHERE),
    "embed-english-v3.0": KnownModel(
        1024, 0.10, "cohere", shortens=False, max_input_tokens=512, price_from=_COHERE, dimensions_from=_UNCHECKED
    ),
    "embed-multilingual-v3.0": KnownModel(
        1024, 0.10, "cohere", shortens=False, max_input_tokens=512, price_from=_COHERE, dimensions_from=_UNCHECKED
    ),
    "jina-embeddings-v3": KnownModel(1024, None, "jina", dimensions_from=_UNCHECKED),
    "jina-embeddings-v4": KnownModel(2048, None, "jina", max_input_tokens=32_768, dimensions_from=_UNCHECKED),
    "mistral-embed": KnownModel(1024, 0.10, "mistral", shortens=False, price_from=_MISTRAL, dimensions_from=_UNCHECKED),
    "codestral-embed": KnownModel(3072, 0.15, "mistral", price_from=_MISTRAL, dimensions_from=_UNCHECKED),
    "amazon.titan-embed-text-v2:0": KnownModel(
        1024, 0.02, "bedrock", shortens=False, max_inputs=1, price_from=_BEDROCK
    ),
    "cohere.embed-english-v3": KnownModel(
        1024, 0.10, "bedrock", shortens=False, max_input_tokens=512, price_from=_BEDROCK, dimensions_from=_UNCHECKED
    ),
    "cohere.embed-multilingual-v3": KnownModel(
        1024, 0.10, "bedrock", shortens=False, max_input_tokens=512, price_from=_BEDROCK, dimensions_from=_UNCHECKED
    ),
}
"""By the name that their provider has for them."""


def served_by(name: str, known: KnownModel | None, dimensions: int) -> KnownModel:
    """What is known of a model at the provider called ``name``; elsewhere than at its own, limits and price differ."""
    if known is None:
        return KnownModel(dimensions, None, name)
    if name == known.provider:
        return known
    return KnownModel(known.dimensions, None, name, known.shortens, max_input_tokens=known.max_input_tokens)


def tells_dimensions(name: str, served: KnownModel, wanted: int) -> bool:
    """Whether a request to the provider called ``name`` says how many dimensions are ``wanted``.

    A server that does not shorten every model is told only where this one has to.
    """
    return served.shortens and (provider(name).send_dimensions or wanted < served.dimensions)
