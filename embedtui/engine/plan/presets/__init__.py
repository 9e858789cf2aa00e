"""Tables that a framework made, known by their columns; the frameworks themselves are data in ``frameworks.py``."""

from embedtui.engine.plan.presets.preset import Preset
from embedtui.engine.plan.presets.recognise import frameworks_of, recognise

__all__ = ["Preset", "frameworks_of", "recognise"]
