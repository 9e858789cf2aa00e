"""The migration engine: synchronous, owns its threads, knows no screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedtui.engine.engine import Engine

if TYPE_CHECKING:
    from embedtui.engine.process import SubprocessEngine

__all__ = ["Engine", "SubprocessEngine"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: only who opens a screen needs processes.
    if name == "SubprocessEngine":
        from embedtui.engine.process import SubprocessEngine

        return SubprocessEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
