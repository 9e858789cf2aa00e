"""The new side's approximate index: options, statements, build, status and use."""

from embedtui.postgres.indexes.builder import IndexBuild, build
from embedtui.postgres.indexes.existing import new_indexes, old_indexes, partition_indexes
from embedtui.postgres.indexes.options import MAX_DIMENSIONS, forecast, ivfflat_forecast, ivfflat_lists
from embedtui.postgres.indexes.statements import create_sql, index_name
from embedtui.postgres.indexes.status import index_status
from embedtui.postgres.indexes.use import WARM_SEARCHES, SearchUse, is_cold, prewarm, used_by_search

__all__ = [
    "MAX_DIMENSIONS",
    "WARM_SEARCHES",
    "IndexBuild",
    "SearchUse",
    "build",
    "create_sql",
    "forecast",
    "index_name",
    "index_status",
    "is_cold",
    "ivfflat_forecast",
    "ivfflat_lists",
    "new_indexes",
    "old_indexes",
    "partition_indexes",
    "prewarm",
    "used_by_search",
]
