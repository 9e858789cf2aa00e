"""A connection for the tests of frameworks' tables."""

from tests.integration.conftest import conn

__all__ = ["conn"]
