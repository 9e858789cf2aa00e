"""Phases cutover and soak: the pointer moved, and moved back."""
