"""embedtui: move a production pgvector table to a new embedding model, watched from a terminal dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedtui.router import AsyncRouter, Router, put

__version__ = "0.1.0"

__all__ = ["AsyncRouter", "Router", "__version__", "put"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the version alone, or another part of the package, should not need a database driver.
    if name in ("AsyncRouter", "Router", "put"):
        from embedtui import router

        return getattr(router, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
