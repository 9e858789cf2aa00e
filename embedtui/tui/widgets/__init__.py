"""Widgets: each paints what it is shown and knows nothing of engines or databases."""
