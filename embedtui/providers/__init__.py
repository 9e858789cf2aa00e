"""Embedding providers: one Protocol, one kind of fault, and the only place that knows openai."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from embedtui.config import file_of
from embedtui.known import provider
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.asking import request_headers, without_credentials
from embedtui.providers.base import BadVectors, Embedder, EmbedReply, Kind, ProviderFault, RateLimits
from embedtui.redaction import remember

if TYPE_CHECKING:
    from embedtui.providers.openai_batches import OpenAIBatches
    from embedtui.providers.openai_client import OpenAIEmbedder

__all__ = [
    "BadVectors", "EmbedReply", "Embedder", "Kind", "ProviderFault", "RateLimits", "endpoint", "make_batches",
    "make_embedder", "shown_endpoint", "unsaid_endpoint",
]  # fmt: skip


def endpoint(model: EmbeddingModel, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Base URL and key with which ``model`` is asked.

    The key is read from ``model.key_variable`` of ``environ`` (default: the process's); a model without one gets a
    placeholder, as local servers want. The base URL is the model's, else ``OPENAI_BASE_URL`` for OpenAI, else the
    provider's own.

    Raises:
        ProviderFault: (CONFIGURATION) the key is missing, or a header's variable, or no endpoint is known.
    """
    if model.unusable is not None:
        reason, hint = model.unusable
        raise ProviderFault(FaultClass.CONFIGURATION, "not_local", reason, hint=hint)
    environ = os.environ if environ is None else environ
    base_url = _base_url(model, environ)
    if not base_url:
        raise ProviderFault(
            FaultClass.CONFIGURATION,
            "no_endpoint",
            f"No endpoint is known for the provider {model.provider!r} of {model.name}.",
            hint="Set the model's base URL (base_url).",
        )
    key = environ.get(model.key_variable, "").strip() if model.key_variable else "none"
    if not key:
        raise ProviderFault(
            FaultClass.CONFIGURATION,
            "missing_key",
            f"No key for {model.name}: the variable {model.key_variable} is not set.",
            hint=f"Put the provider's key into {model.key_variable} (environment or .env), or have the model's"
            " key_variable (old_model.key_variable, new_model.key_variable) name the one that has it.",
        )
    if not (key.isascii() and key.isprintable()):
        source = file_of(environ, model.key_variable) or "the environment"
        raise ProviderFault(
            FaultClass.CONFIGURATION,
            "missing_key",
            f"The key in {model.key_variable} (from {source}) holds a character that no key has (a quote or blank of a"
            " web page?).",
            hint=f"Put the provider's key into {model.key_variable} again.",
        )
    remember(key)
    request_headers(model, environ)
    return base_url, key


def _base_url(model: EmbeddingModel, environ: Mapping[str, str]) -> str:
    by_environment = environ.get("OPENAI_BASE_URL", "") if model.provider == "openai" else ""
    return model.base_url or by_environment or provider(model.provider).base_url or ""


def shown_endpoint(model: EmbeddingModel, environ: Mapping[str, str]) -> str:
    """Where texts are sent, without what may be a secret: scheme, host and path; empty where none is known."""
    return without_credentials(_base_url(model, environ)) if model.unusable is None else ""


def unsaid_endpoint(
    old: EmbeddingModel, new: EmbeddingModel, environ: Mapping[str, str]
) -> tuple[str, tuple[str, str]] | None:
    """The side whose model would be asked at its provider's own endpoint by nobody's word, with reason and hint.

    It is so where the other one, of the same provider, is asked at another endpoint: a gateway, say, whose key and
    whose texts are not for the provider itself.
    """
    if old.unasked or old.provider != new.provider:
        return None
    own = provider(old.provider).base_url
    for side, model, other in (("old", old, new), ("new", new, old)):
        there = _base_url(other, environ)
        if own and model.base_url is None and _base_url(model, environ) == own and there.rstrip("/") != own:
            where = without_credentials(there)
            reason = f"{other.name} is asked at {where}, and nothing says where {model.name} is asked."
            return side, (reason, f"Set {side}_model.base_url: to {where}, or {own} if that is meant.")
    return None


def make_embedder(
    model: EmbeddingModel, *, timeout: float | None = None, environ: Mapping[str, str] | None = None
) -> Embedder:
    """An embedder for ``model`` at its :func:`endpoint` (``timeout``: seconds per request; None is the model's).

    Raises:
        ProviderFault: as :func:`endpoint`.
    """
    return _client(model, timeout, environ)


def make_batches(model: EmbeddingModel, *, environ: Mapping[str, str] | None = None) -> OpenAIBatches:
    """Batch jobs for ``model`` at its :func:`endpoint`.

    Raises:
        ProviderFault: as :func:`endpoint`.
    """
    client = _client(model, None, environ)
    from embedtui.providers.openai_batches import OpenAIBatches

    return OpenAIBatches(client, model)


def _client(model: EmbeddingModel, timeout: float | None, environ: Mapping[str, str] | None) -> OpenAIEmbedder:
    base_url, key = endpoint(model, environ)
    # openai takes up to a second to import: who only checks the settings, or prepares, does not wait for it
    from embedtui.providers.openai_client import OpenAIEmbedder

    environ = os.environ if environ is None else environ
    return OpenAIEmbedder(
        model,
        key=key,
        base_url=base_url,
        timeout=timeout or model.timeout_seconds,
        headers=request_headers(model, environ),
        key_file=file_of(environ, model.key_variable),
    )
