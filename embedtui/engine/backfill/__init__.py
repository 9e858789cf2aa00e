"""Phases backfill and index, and keeping both sides current: the pipeline from a row's text to its stored vector."""
