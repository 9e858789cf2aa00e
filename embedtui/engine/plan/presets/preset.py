"""What is known of a framework's table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preset:
    """A framework's table: how it is known, and what the framework embeds of a row."""

    name: str
    columns: Mapping[str, tuple[str, ...]]
    """Columns that it has, each with the types (``pg_type.typname``) that it may be of; a table may have more."""
    key: tuple[str, ...]
    vector: str
    embeds: str
    """What it embeds, in one sentence."""
    source: str
    """Where the framework says so: its documentation, or its source."""
    content: tuple[str, ...] = ()
    content_sql: str = ""
    """SQL over the row that makes the text, where that is no column."""
    function: str = ""
    """The statement that makes the function that ``content_sql`` calls."""
    texts_in: tuple[str, str] | None = None
    """(table of the same schema, its column of JSON) that a foreign key leads to and that has the texts."""
    field: str = ""
    """The column that names what of that JSON is embedded, as a path."""
    unlike: str = ""
    """SQL condition: the text of such a row cannot be made so."""
    scope: str = ""
    """The column that tells collections apart, each of which may be of another model."""
    scope_names: tuple[str, str, str] | None = None
    """Table of the same schema that names what ``scope`` holds, with its columns for key and name."""
    table: str = ""
    """Pattern of its name, where the columns alone say too little."""
    pads: bool = False
    """It pads vectors with zeros to their column's size."""
    caution: str = ""
    """What else to know before it is moved."""
    refused: str = ""
    """Why it cannot be moved, and what can be done."""

    def fits(self, table: str, columns: Mapping[str, str]) -> bool:
        """Whether a table of that name, with these columns and their types, is one of the framework's."""
        return bool(re.search(self.table, table)) and all(
            columns.get(name) in types for name, types in self.columns.items()
        )
