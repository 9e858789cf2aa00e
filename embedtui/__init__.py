"""embedtui: move a production pgvector table to a new embedding model, watched from a terminal dashboard."""

from __future__ import annotations

__version__ = "0.1.0"
