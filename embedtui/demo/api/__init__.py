"""A loopback embedding API: speaks POST /v1/embeddings as OpenAI does, with plugged-in models and faults on demand."""

from embedtui.demo.api.faults import Fault, FaultKind, Faults, Spoil
from embedtui.demo.api.hashing import ModelFunction, hash_model
from embedtui.demo.api.limits import format_reset
from embedtui.demo.api.manners import MANNERS, Manners
from embedtui.demo.api.protocol import DEFAULT_KEY, MAX_INPUT_TOKENS, MAX_INPUTS, MAX_TOKENS
from embedtui.demo.api.server import LoopbackServer

__all__ = [
    "DEFAULT_KEY", "MANNERS", "MAX_INPUTS", "MAX_INPUT_TOKENS", "MAX_TOKENS", "Fault", "FaultKind", "Faults",
    "LoopbackServer", "Manners", "ModelFunction", "Spoil", "format_reset", "hash_model",
]  # fmt: skip
