"""Thin ties to frameworks whose applications cannot name the side they search: they follow by a routed view.

Each module needs its own framework, an optional extra, and none is imported here.
"""

from embedtui.integrations.routing import Routing

__all__ = ["Routing"]
