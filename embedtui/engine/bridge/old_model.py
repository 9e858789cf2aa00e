"""Whether the old model is dead: by the operator's word, by the calendar, or by its own answer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from embedtui.known import retirement
from embedtui.model import UNNAMED, EmbeddingModel, FaultClass
from embedtui.providers import ProviderFault, make_embedder

ASK_SECONDS = 10.0
"""A model that takes longer to answer a word is slow, and not known to be dead."""
_GONE = frozenset({"404", "410"})
"""Codes of a model that is not there; a key that is refused, or a network that is down, says nothing of it."""
_TEXT = "embedtui"


@dataclass(frozen=True, slots=True)
class OldModel:
    """What is known of it; with neither it answers."""

    gone: str = ""
    """Why it is taken for dead."""
    unknown: str = ""
    """Why that cannot be told."""


def known_gone(model: EmbeddingModel) -> str:
    """Why a model is taken for dead without asking it; empty where nothing is known."""
    if model.retired:
        return f"{model.called} is retired"
    found = retirement(model.provider, model.name)
    return found.said() if found is not None and found.past() else ""


def ask_model(model: EmbeddingModel, environ: Mapping[str, str]) -> OldModel:
    """Whether it answers: one short request, unless it is known to be dead."""
    if said := known_gone(model):
        return OldModel(said)
    if model.name == UNNAMED:
        return OldModel(unknown="nobody has named it")
    try:
        with closing(make_embedder(model, timeout=ASK_SECONDS, environ=environ)) as embedder:
            embedder.embed([_TEXT], kind="query")
    except ProviderFault as fault:
        if fault.fault_class is FaultClass.CONFIGURATION and fault.code in _GONE:
            return OldModel(f"{model.called} no longer answers ({fault.code})")
        return OldModel(unknown=fault.reason)
    return OldModel()
