"""The migration engine: synchronous, owns its threads, knows no screen."""

from __future__ import annotations

from embedtui.engine.engine import Engine

__all__ = ["Engine"]
