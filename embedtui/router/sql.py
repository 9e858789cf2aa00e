"""The statements of one side of a route, composed once and kept as text."""

from __future__ import annotations

import functools

from psycopg import sql

from embedtui.model import Migration, PlacementKind, Side
from embedtui.postgres.names import escaped, key_equals_sql, quoted
from embedtui.postgres.sides.layout import content_sql, fingerprint_sql, new_side, scope_sql
from embedtui.postgres.sides.search import scan_of, search_sql, vector_type


class SideSql:
    """The statements of one side, composed once and kept as text."""

    def __init__(
        self, migration: Migration, side: Side, pgvector: str, stamped: bool, attnum: int | None, cast_to: str = ""
    ) -> None:
        """Compose nothing yet.

        Args:
            migration: what the route's rows tell of it.
            side: the side that is searched and written.
            pgvector: version of the extension, empty where unknown.
            stamped: vectors carry model and fingerprint.
            attnum: number of the vector's column in the user's table as looked up; None where it is not known.
            cast_to: what its index casts the vectors to, empty for nothing.
        """
        self.migration, self.side, self.stamped, self.cast_to = migration, side, stamped, cast_to
        self.attnum = attnum if side is Side.OLD or migration.placement is PlacementKind.COLUMN else None
        self.pgvector = pgvector
        self.search = functools.lru_cache(maxsize=256)(self._search)
        self.write = functools.lru_cache(maxsize=4)(self._write)

    def _search(self, columns: tuple[str, ...], where: str, iterative_scan: str | None) -> str:
        if iterative_scan is None:
            iterative_scan = scan_of(self.pgvector, filtered=bool(where) or self.migration.scope is not None)
        conditions = [sql.SQL("({})").format(sql.SQL(where))] if where else []
        if self.attnum is not None:
            conditions.append(self._still())
        return search_sql(
            self.migration,
            self.side,
            columns=columns,
            where=sql.SQL(" AND ").join(conditions) if conditions else None,
            iterative_scan=iterative_scan,
            cast_to=self.cast_to,
        ).as_string(None)

    def _still(self) -> sql.Composed:
        """True while the column is the one that this side was looked up with, and not another of its name.

        After a cleanup the new column may have the old one's name; a route that was taken before finds nothing then,
        rather than vectors of another model. Evaluated once a statement: a look-up in an index.
        """
        column = self.migration.old_column if self.side is Side.OLD else self.migration.new_column
        return sql.SQL(
            "(SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid OPERATOR(pg_catalog.=) {}::pg_catalog.oid"
            " AND attnum OPERATOR(pg_catalog.=) {}::pg_catalog.int2) OPERATOR(pg_catalog.=) {}::pg_catalog.name"
        ).format(
            sql.Literal(self.migration.table_oid),
            sql.Literal(self.attnum),
            sql.SQL(sql.Literal(column).as_string(None).replace("%", "%%")),
        )

    def _row(self) -> sql.Composable:
        """Condition on the row to write to: it has the key, and is one of the migration's."""
        conditions: list[sql.Composable] = [key_equals_sql(self.migration)]
        if self.migration.scope is not None:
            table = self.migration.table
            conditions.append(escaped(scope_sql(self.migration, table.schema, table.name)))
        if self.attnum is not None:
            conditions.append(self._still())
        return sql.SQL(" AND ").join(conditions)

    def _write(self, guarded: bool) -> str:
        migration, table = self.migration, self.migration.table
        side = new_side(migration)
        names = {
            "table": quoted(table.schema, table.name),
            "alias": quoted(table.name),
            "vector": sql.SQL("CAST({} AS {})").format(sql.Placeholder("vector"), vector_type(migration, self.side)),
            "model": sql.Literal(migration.new_model.id),
            "fingerprint": escaped(fingerprint_sql(migration, table.name)),
            "where": self._row(),
            "guard": sql.SQL(" AND {} OPERATOR(pg_catalog.=) %(content)s").format(
                escaped(content_sql(migration, table.name))
            )
            if guarded
            else sql.SQL(""),
            "side": quoted(side.table.schema, side.table.name),
            "embedding": quoted(side.embedding),
            "model_column": quoted(side.model),
            "source_column": quoted(side.source),
            "old": quoted(migration.old_column),
            "keys": sql.SQL(", ").join(quoted(name) for name in migration.key_columns),
        }
        if self.side is Side.OLD:
            text = "UPDATE {table} SET {old} = {vector} WHERE {where}{guard}"
        elif migration.placement is PlacementKind.TABLE:
            # The lock keeps the content as it is between fingerprint and commit.
            text = (
                "WITH embedtui_row AS MATERIALIZED (SELECT {keys}, {fingerprint} AS embedtui_source FROM {table}"
                " WHERE {where}{guard} FOR NO KEY UPDATE)"
                " INSERT INTO {side} ({keys}, {embedding}{stamp_columns}) SELECT {keys}, {vector}{stamp_values}"
                " FROM embedtui_row"
                " ON CONFLICT ({keys}) DO UPDATE SET {embedding} = excluded.{embedding}{stamp_updates}"
            )
        else:
            text = "UPDATE {table} SET {embedding} = {vector}{stamp_sets} WHERE {where}{guard}"
        stamps = {
            "stamp_columns": ", {model_column}, {source_column}",
            "stamp_values": ", {model}, embedtui_source",
            "stamp_updates": ", {model_column} = excluded.{model_column}, {source_column} = excluded.{source_column}",
            "stamp_sets": ", {model_column} = {model}, {source_column} = {fingerprint}",
        }
        for name, stamp in stamps.items():
            text = text.replace("{" + name + "}", stamp if self.stamped else "")
        return sql.SQL(text).format(**names).as_string(None)
