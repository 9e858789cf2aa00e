"""Django in the tests' process: its settings are global, so every database is one more alias."""

# mypy: ignore-errors

from __future__ import annotations

from psycopg.conninfo import conninfo_to_dict


def alias_of(dsn: str) -> str:
    """Django's name of a database, which it may connect to from now on."""
    import django
    from django.conf import settings

    parts = conninfo_to_dict(dsn)
    place = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts["dbname"],
        "HOST": parts["host"],
        "PORT": parts.get("port", ""),
        "USER": parts.get("user", "postgres"),
    }
    alias = f"database_{parts['dbname']}"
    if not settings.configured:
        settings.configure(
            DATABASES={"default": place}, INSTALLED_APPS=[], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField"
        )
        django.setup()
    from django.db import connections

    connections.settings[alias] = connections.configure_settings({"default": place})["default"]
    return alias
