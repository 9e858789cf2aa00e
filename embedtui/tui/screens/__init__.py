"""Screens: what each arranges, and what its own keys do."""
