"""The action that brings search back where the old model is dead: bridge on, off, and what was found of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedtui.errors import Blocked, Refused
from embedtui.model import Command, Side, Snapshot
from embedtui.model.bridge import BridgeReport, in_words
from embedtui.tui.actions.base import Action
from embedtui.tui.engine import Engine
from embedtui.tui.engine_threads import Call, Task
from embedtui.tui.view import View

if TYPE_CHECKING:
    from embedtui.tui.app import Dashboard


@dataclass(frozen=True, slots=True)
class BridgeOrder:
    """What the operator wants of a bridge."""

    serve: bool = False
    """Searches are to go through it; else it is only measured."""
    off: bool = False
    """Searches are to take the old model's vectors again."""
    override: Mapping[str, str] = field(default_factory=dict)
    """Reasons by the checks they pass."""


class Bridging(Action):
    """The old model is dead: fit a bridge and have searches go through it; or see what was found, and end it."""

    name, key, label = "bridge", "B", "Bridge"
    command = Command.BRIDGE
    watches = True

    def _do(self, app: Dashboard) -> None:
        if app.snapshot is not None and wanted(app.view, app.snapshot):
            app.bridge.do(task(BridgeOrder(serve=True)))
        app.open_bridge(lambda order: app.bridge.do(task(order)))


def wanted(view: View, snapshot: Snapshot) -> bool:
    """Whether the key alone is enough: the old model is dead, and nothing was found that asks for a reason."""
    tried = snapshot.bridge
    return (
        bool(snapshot.old_gone)
        and snapshot.route.active is Side.OLD
        and not snapshot.route.bridging
        and not view.bridge_work
        and (tried is None or not tried.status.refused)
    )


def task(order: BridgeOrder) -> Task[object]:
    """What the bridge's threads do for an order."""
    if order.off:
        done = "The bridge is off: the old side takes the old model's vectors."
        return Task(Bridging.name, lambda engine, _: engine.bridge_off(), done)
    return Task(
        Bridging.name,
        lambda engine, call: _bridge(engine, call, order),
        lambda report: _said(report),
        started="Bridging: a sample is embedded, then the map is fitted and measured.",
    )


def _bridge(engine: Engine, call: Call, order: BridgeOrder) -> object:
    try:
        return engine.bridge(serve=order.serve, override=order.override, stop=call.stop)
    except Blocked as error:
        # here a reason is typed beside the figures
        raise Refused(error.message, hint=f"{Bridging.key} shows what was found, and takes a reason.") from None


def _said(report: object) -> str:
    assert isinstance(report, BridgeReport)
    found = in_words(report.status)
    return f"Bridged: {found}." if report.served else f"Measured, nothing is changed: it {found}."
