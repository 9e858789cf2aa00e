"""The new side's approximate index: options, statements, build, status and use."""

from embedtui.postgres.indexes.builder import IndexBuild, build
from embedtui.postgres.indexes.existing import known_old_indexes, lost_old_index, new_indexes
from embedtui.postgres.indexes.options import MAX_DIMENSIONS, forecast, ivfflat_forecast, ivfflat_lists
from embedtui.postgres.indexes.shapes import Shape, Shapes, pairs_of, shapes_of
from embedtui.postgres.indexes.statements import create_sql, missing, targets_of
from embedtui.postgres.indexes.status import index_status
from embedtui.postgres.indexes.use import WARM_SEARCHES, SearchUse, filters, is_cold, prewarm, used_by_search

__all__ = [
    "MAX_DIMENSIONS",
    "WARM_SEARCHES",
    "IndexBuild",
    "SearchUse",
    "Shape",
    "Shapes",
    "build",
    "create_sql",
    "filters",
    "forecast",
    "index_status",
    "is_cold",
    "ivfflat_forecast",
    "ivfflat_lists",
    "known_old_indexes",
    "lost_old_index",
    "missing",
    "new_indexes",
    "pairs_of",
    "prewarm",
    "shapes_of",
    "targets_of",
    "used_by_search",
]
