"""Every routine and view that embedtui makes in a database: whose rights it runs with, who may use it, and why.

The one place for it: a test compares it with the catalog, so that nothing new runs with our rights unnoticed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Routine:
    """A function of schema ``embedtui``, or a kind of function with the migration's number in its name."""

    name: str
    """A regular expression for the whole name."""
    definer: bool
    """It runs with the rights of its owner, the role that ran ``embedtui run``; else with the caller's."""
    public: bool
    """Everybody who may use the schema may execute it; else nobody but its owner (triggers fire without) and, of a
    partitioned table, the table's owner (PostgreSQL asks for it when a partition is attached)."""
    search_path: str
    """Its own; empty: the caller's."""
    reason: str


@dataclass(frozen=True, slots=True)
class View:
    """A view of schema ``embedtui``."""

    name: str
    definer: bool
    reason: str


ROUTINES = (
    Routine(
        r"capture_\d+_row",
        definer=True,
        public=False,
        search_path="pg_catalog, pg_temp",
        reason="queues the key of a row that the application inserted or changed, without rights of the application's"
        " on embedtui.queue; on other tables than the migration's and its partitions it does nothing",
    ),
    Routine(
        r"capture_\d+_old_row",
        definer=True,
        public=False,
        search_path="pg_catalog, pg_temp",
        reason="the same for a deleted key, where no foreign key takes the vector along",
    ),
    Routine(
        r"capture_\d+_all",
        definer=True,
        public=False,
        search_path="pg_catalog, pg_temp",
        reason="the same for TRUNCATE",
    ),
    Routine(
        r"capture_\d+_(old_)?text",
        definer=True,
        public=False,
        search_path="pg_catalog, pg_temp",
        reason="where the texts are in another table, queues the key of a row there whose text changed; on other tables"
        " it does nothing",
    ),
    Routine(
        r"capture_\d+_side",
        definer=True,
        public=False,
        search_path="pg_catalog, pg_temp",
        reason="the same for a side table that is being folded; on other tables than that it does nothing",
    ),
    Routine(
        "guard_phase",
        definer=False,
        public=False,
        search_path="pg_catalog, pg_temp",
        reason="a worker's role moves a migration from backfill to index to validate, and no further",
    ),
    Routine(
        "side_for",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="which side a key reads",
    ),
    Routine(
        "route",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="what to embed a query with and where to search it",
    ),
    Routine(
        "search_statement",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="the statement that search runs; every name and operator of ours in it carries its schema",
    ),
    Routine(
        "search_iterates",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="whether a filtered search has to tell pgvector to go on",
    ),
    Routine(
        "search_hold",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="locks the route's tables as any SELECT does, so that a search's names stay true until it ends",
    ),
    Routine(
        "shaped",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="a vector padded, or divided by its length; reads nothing",
    ),
    Routine(
        "search_vector",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="the same as a route's model has it",
    ),
    Routine(
        "bridge_vector",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="a vector as the map of one version makes it; reads that map with the caller's rights",
    ),
    Routine(
        "bridge",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="the same by the map of a route",
    ),
    Routine(
        "search_bridge",
        definer=False,
        public=True,
        search_path="pg_catalog, pg_temp",
        reason="which map a search by a model's vectors goes through",
    ),
    Routine(
        "search",
        definer=False,
        public=True,
        search_path="",
        reason="the nearest rows; no search path of its own, since the filter is to be read by the caller's",
    ),
)

VIEWS = (
    View(
        "route_side",
        definer=True,
        reason="shows an application the route without rights on the tables behind; none has USAGE or SELECT unless"
        " granted, and no column holds an endpoint or a key",
    ),
)


def routine(name: str) -> Routine | None:
    """The entry of a function; None where it is none of ours."""
    return next((each for each in ROUTINES if re.fullmatch(each.name, name)), None)
