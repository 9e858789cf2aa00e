"""What is public about providers, their models and the days these are shut down: data, each with source and date.

``providers.py``: how each provider is asked. ``models.py``: size, limits and price of well-known models.
``retirements.py``: the calendar. Every figure can be overridden in the settings; nothing here is fetched.
"""

from embedtui.known.models import KNOWN_MODELS, PRICES_CHECKED, SIZES_CHECKED, KnownModel, served_by, tells_dimensions
from embedtui.known.providers import PROVIDERS, Provider, provider
from embedtui.known.retirements import RETIREMENTS, Retirement, retirement

__all__ = [
    "KNOWN_MODELS", "PRICES_CHECKED", "PROVIDERS", "RETIREMENTS", "SIZES_CHECKED", "KnownModel", "Provider",
    "Retirement", "provider", "retirement", "served_by", "tells_dimensions",
]  # fmt: skip
