"""What all parts know: the models, and which texts the provider refuses."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from embedtui.demo.api import FaultKind, LoopbackServer, hash_model

OLD, NEW = "old-model", "new-model"
MODELS = {OLD: hash_model(24), NEW: hash_model(32, salt="new")}
WRITERS = 6
WORKERS = 2
INPUTS = 32
"""Texts a request."""
TIMEOUT = 4.0
"""Seconds that a request may take."""
POISON: Mapping[str, tuple[FaultKind, str | None, Mapping[str, Any]]] = {
    "poison 400": (FaultKind.REJECTED, None, {"status": 400}),
    "poison 413": (FaultKind.REJECTED, NEW, {"status": 413}),
    "poison 422": (FaultKind.REJECTED, NEW, {"status": 422}),
    "poison 424": (FaultKind.REJECTED, NEW, {"status": 424}),
    "poison 500": (FaultKind.REJECTED, NEW, {"status": 500}),
    "poison nan": (FaultKind.NAN, NEW, {}),
    "poison zero": (FaultKind.ZERO, NEW, {}),
    "SELECT * FROM users": (FaultKind.FIREWALL, None, {}),
}
"""What a text holds that is always refused, how, and by which model (None: by both)."""


class Background:
    """Work of a thread of its own, from the beginning of a block to its end."""

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; a repeat does nothing."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError


def vector_text(model: str, content: str) -> str:
    """The vector that ``model`` has to give, in pgvector's text form."""
    return "[" + ",".join(repr(float(x)) for x in MODELS[model]([content], None)[0]) + "]"


def guilty(model: str, content: str | None) -> bool:
    """Whether the provider never embeds this text."""
    return content is not None and any(
        marker in content and refuser in (None, model) for marker, (_, refuser, _) in POISON.items()
    )


def poison(api: LoopbackServer) -> None:
    """End all faults but these."""
    api.faults.clear()
    for marker, (kind, model, options) in POISON.items():
        api.faults.add(kind, containing=marker, model=model, **options)


def write_settings(folder: Path, api: LoopbackServer, placement: str, batch: bool) -> None:
    """The workers' settings, whole at any moment; the endpoint is where the API is now."""
    model = f'base_url = "{api.base_url}"\nmax_inputs = {INPUTS}\ntimeout_seconds = {TIMEOUT}\n'
    jobs = "batch = true\nbatch_inputs = 500\nprice_per_million = 0.13\n" if batch else ""
    text = (
        f'table = "documents"\nplacement = "{placement}"\n[old_model]\nname = "{OLD}"\n{model}'
        f'[new_model]\nname = "{NEW}"\ndimensions = 32\n{model}{jobs}[pacing]\nmax_concurrency = 4\n'
    )
    (folder / "new.toml").write_text(text)
    (folder / "new.toml").replace(folder / "embedtui.toml")
