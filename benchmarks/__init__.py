"""Benchmarks: each runs by one command, both sides in one run, alternating, and prints its figures."""
