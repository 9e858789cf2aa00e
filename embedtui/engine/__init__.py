"""The migration engine: synchronous, owns its threads, knows no screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedtui.engine.engine import Engine

if TYPE_CHECKING:
    from embedtui.engine.process import EngineApart

__all__ = ["Engine", "EngineApart"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: only who opens a screen needs processes.
    if name == "EngineApart":
        from embedtui.engine.process import EngineApart

        return EngineApart
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
