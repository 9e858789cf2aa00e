-- Which rows are migrated, and the text that is embedded, as SQL over the row (see postgres/expressions.py): {"given": as
-- the operator wrote it, "sql": as every session reads it, "columns": [[name, type], …]}. NULL: all rows; the columns'.
ALTER TABLE embedtui.migration ADD COLUMN scope jsonb, ADD COLUMN content jsonb;

-- One live migration a table and scope; that scopes have no row in common is asked of the server when one begins.
DROP INDEX IF EXISTS embedtui.migration_live;
CREATE UNIQUE INDEX migration_live ON embedtui.migration (table_oid, pg_catalog.md5(coalesce(scope ->> 'sql', '')))
    WHERE phase NOT IN ('done', 'aborted');
