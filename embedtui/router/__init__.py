"""What a service imports: which model to embed with and which column to search, followed through every flip.

::

    router = Router("postgresql://…", application_name="search-api")
    route = router.route("documents")                      # in memory, no query
    vector = embed(route.query_prefix + question, model=route.model, dimensions=route.dimensions)
    hits = route.search(conn, vector, k=10, where="lang = %(lang)s", params={"lang": "en"}, columns=["title"])

A route holds the model *and* the column of one state of the pointer, so the two cannot diverge: a request that took its
route before a flip still searches the side that its query vector belongs to, and one that took it before a cleanup
finds the column under its new name. A background thread follows the pointer by LISTEN/NOTIFY, with a poll as the safety
net; :class:`AsyncRouter` shares it, so a busy event loop delays no flip.
"""

from embedtui.router.async_client import AsyncRouter
from embedtui.router.client import Router, put
from embedtui.router.follower import RouterStatus
from embedtui.router.route import AsyncRoute, Hit, Route

__all__ = ["AsyncRoute", "AsyncRouter", "Hit", "Route", "Router", "RouterStatus", "put"]
