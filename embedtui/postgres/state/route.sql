-- The route as any language reads it. {vector} stands for the schema that pgvector lives in, search_type in braces
-- for the subquery SEARCH_TYPE of embedtui/postgres/catalog/vectors.py.
--
-- The functions run on an application's session with the caller's rights. Their own SET search_path keeps what somebody
-- planted in the caller's path out of them; embedtui.search, whose filter is to be read by the caller's path, has none,
-- so every name and operator in it carries its schema.

-- One row a route and side: everything a search needs, in one consistent look-up. The view runs with its owner's
-- rights: an application needs SELECT on it and nothing on the tables behind.
CREATE OR REPLACE VIEW embedtui.route_side AS
SELECT r.name, s.side, s.side = r.active AS active, r.canary, r.epoch,
       -- the cleanup records in settings.gone which side it took away; an ended migration has one side
       s.side IS DISTINCT FROM coalesce(m.settings ->> 'gone',
                                        CASE m.phase WHEN 'done' THEN 'old' WHEN 'aborted' THEN 'new' END) AS present,
       d.id AS model_id, d.name AS model, d.provider, d.dimensions, d.query_prefix, d.document_prefix,
       CASE WHEN s.side = 'new' THEN m.new_schema ELSE m.table_schema END AS relation_schema,
       CASE WHEN s.side = 'new' THEN m.new_table ELSE m.table_name END AS relation_name,
       CASE WHEN s.side = 'new' THEN m.new_column ELSE m.old_column END AS column_name,
       CASE WHEN s.side = 'new' THEN m.vector_type ELSE m.old_vector_type END AS vector_type,
       m.vector_schema, m.distance, m.index_method, m.placement, m.table_schema, m.table_name, m.table_oid,
       m.key_columns, m.key_types, m.content_columns, m.phase, m.id AS migration,
       (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector') AS pgvector,
       -- whether vectors carry model and fingerprint: the cleanup may have taken these columns away
       s.side = 'new' AND EXISTS (
           SELECT FROM pg_catalog.pg_attribute a
           WHERE a.attrelid = to_regclass(format('%I.%I', m.new_schema, m.new_table)) AND NOT a.attisdropped
             AND a.attname = CASE m.placement WHEN 'table' THEN 'source' ELSE m.new_column || '_source' END
       ) AS stamped,
       m.content_types, m.key_equality,
       -- the column itself, whatever it is called: names are exchanged and taken over, and must not be taken for it
       (SELECT a.attnum FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = to_regclass(format('%I.%I', CASE WHEN s.side = 'new' THEN m.new_schema ELSE m.table_schema END,
                                              CASE WHEN s.side = 'new' THEN m.new_table ELSE m.table_name END))
          AND NOT a.attisdropped
          AND a.attname = CASE WHEN s.side = 'new' THEN m.new_column ELSE m.old_column END) AS attnum,
       -- what its index casts the column to: the search has to do the same, or it reads the whole table
       coalesce(({search_type}), '') AS search_type,
       -- the map by which the new model's vectors search this side, and whether they do
       CASE WHEN s.side = 'old' THEN r.bridge END AS bridge, s.side = 'old' AND r.bridging AS bridging,
       CASE WHEN s.side = 'old' THEN (SELECT b.figures -> 'figures' FROM embedtui.bridge b WHERE b.id = r.bridge)
       END AS bridge_figures,
       -- of a row called embedtui_row
       m.scope ->> 'sql' AS scope_sql, m.content ->> 'sql' AS content_sql,
       -- what a vector goes through before it is stored, or searched with
       coalesce(d.given, d.dimensions) AS given, d.normalise,
       -- whether a request says how many dimensions are wanted: some models refuse that
       d.send_dimensions
FROM embedtui.route r
JOIN embedtui.migration m ON m.id = r.migration
CROSS JOIN (VALUES ('old'), ('new')) AS s (side)
JOIN embedtui.model d ON d.id = CASE WHEN s.side = 'new' THEN m.new_model ELSE m.old_model END
CROSS JOIN LATERAL (
    SELECT to_regclass(CASE WHEN s.side = 'new' THEN format('%I.%I', m.new_schema, m.new_table)
                            ELSE format('%I.%I', m.table_schema, m.table_name) END)::oid AS of_table,
           CASE WHEN s.side = 'new' THEN m.new_column ELSE m.old_column END AS of_column,
           CASE m.distance WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' ELSE '<#>' END AS of_operator
) AS served;

-- The side that a key reads: the active one, or the new one for the keys of the canary. The same key stays on its side,
-- and a growing canary keeps the keys it has. bucket(key) = first four bytes of sha256(key), big-endian, modulo 100.
CREATE OR REPLACE FUNCTION embedtui.side_for(name text, key text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.side
    FROM embedtui.route_side s,
         (SELECT pg_catalog.sha256(pg_catalog.convert_to(side_for.key, 'UTF8')) AS h) AS hashed
    WHERE s.name = side_for.name
      AND s.present
    -- without a key there is no canary
    ORDER BY s.side = 'new' AND h IS NOT NULL
             AND s.canary > (((get_byte(h, 0) * 256 + get_byte(h, 1))::bigint * 256 + get_byte(h, 2)) * 256
                             + get_byte(h, 3)) % 100 DESC,
             s.active DESC
    LIMIT 1
$$;

-- What to embed a query with and where to search it; with a key, the canary is respected.
CREATE OR REPLACE FUNCTION embedtui.route(name text, key text DEFAULT NULL)
RETURNS TABLE (side text, model text, model_id integer, dimensions integer, column_name text, relation text,
               canary integer, epoch bigint, query_prefix text, document_prefix text)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    -- through a bridge the old side is searched by the new model's vectors
    SELECT s.side, m.model, m.model_id, m.given, s.column_name, format('%I.%I', s.relation_schema, s.relation_name),
           s.canary, s.epoch, m.query_prefix, m.document_prefix
    FROM embedtui.route_side s
    JOIN embedtui.route_side m ON m.name = s.name AND m.side = CASE WHEN s.bridging THEN 'new' ELSE s.side END
    WHERE s.name = route.name AND s.side = embedtui.side_for(route.name, route.key)
$$;

-- The statement that embedtui.search runs, with parameters $1 (vector) and $2 (rows). It lies within the parentheses of the
-- filter whose search path is the caller's, hence the schema before everything.
CREATE OR REPLACE FUNCTION embedtui.search_statement(name text, model text, size integer, filter text)
RETURNS text LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    side embedtui.route_side;
    source text;
    column_sql text;
    key_sql text;
    type_sql text;
    distance_sql text;
BEGIN
    SELECT s.* INTO side
    FROM embedtui.route_side s
    WHERE s.name = search_statement.name AND s.present AND search_statement.model IN (s.model, s.model_id::text)
    -- of two models with one name the dimensions tell; of one model on both sides the pointer
    ORDER BY s.dimensions = size DESC, s.active DESC
    LIMIT 1;
    IF NOT FOUND THEN
        IF NOT EXISTS (SELECT FROM embedtui.route_side s WHERE s.name = search_statement.name) THEN
            RAISE EXCEPTION 'embedtui has no route "%"', search_statement.name USING ERRCODE = 'undefined_object';
        END IF;
        RAISE EXCEPTION 'model "%" is of no side of route "%"', search_statement.model, search_statement.name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = (SELECT 'Its models: ' || string_agg(format('%s (id %s)', s.model, s.model_id), ', ')
                          FROM embedtui.route_side s WHERE s.name = search_statement.name AND s.present);
    END IF;
    IF EXISTS (SELECT FROM embedtui.route_side s
               WHERE s.name = search_statement.name AND s.present AND s.model = search_statement.model
                 AND s.model_id <> side.model_id AND s.dimensions = side.dimensions)
       AND search_statement.model <> side.model_id::text THEN
        RAISE EXCEPTION 'both models of route "%" are called "%"', search_statement.name, search_statement.model
            USING ERRCODE = 'ambiguous_parameter', HINT = 'Give the model''s id as embedtui.route() tells it.';
    END IF;
    IF size <> side.dimensions THEN
        RAISE EXCEPTION 'model "%" makes % dimensions, the vector has %', search_statement.model, side.dimensions, size
            USING ERRCODE = 'data_exception';
    END IF;

    -- a type that is not PostgreSQL's own is written by its output function: a cast of its owner's is not asked
    SELECT string_agg(format(CASE WHEN t LIKE '%.%' THEN 'pg_catalog.concat(%I.%I.%I)'
                                  ELSE '%I.%I.%I::pg_catalog.text' END, side.table_schema, side.table_name, c),
                      ', ' ORDER BY n)
    INTO key_sql FROM unnest(side.key_columns, side.key_types) WITH ORDINALITY AS u (c, t, n);
    IF cardinality(side.key_columns) > 1 THEN
        key_sql := format('pg_catalog.to_jsonb(ARRAY[%s])::pg_catalog.text', key_sql);
    END IF;
    source := format('%I.%I', side.table_schema, side.table_name);
    IF side.side = 'new' AND side.placement = 'table' THEN
        column_sql := 'embedtui_side.embedtui_vector';
        source := source || (
            SELECT format(' JOIN (SELECT %s, %I AS embedtui_vector FROM %I.%I) AS embedtui_side ON %s',
                          string_agg(format('%I AS embedtui_key_%s', c, n), ', ' ORDER BY n), side.column_name,
                          side.relation_schema, side.relation_name,
                          string_agg(format('embedtui_side.embedtui_key_%s%s OPERATOR(%I.=) %I.%I.%I%s', n, as_type,
                                            coalesce(equality, 'pg_catalog'), side.table_schema, side.table_name, c,
                                            as_type), ' AND ' ORDER BY n))
            FROM unnest(side.key_columns, side.key_equality, side.key_types) WITH ORDINALITY AS u (c, equality, t, n),
                 LATERAL (SELECT CASE WHEN t LIKE '%.%' THEN '::' || t ELSE '' END AS as_type) AS v);
    ELSE
        column_sql := format('%I.%I.%I', side.table_schema, side.table_name, side.column_name);
    END IF;
    type_sql := format('%I.%I(%s)', side.vector_schema, coalesce(nullif(side.search_type, ''), side.vector_type),
                       side.dimensions);
    distance_sql := format('(%s%s OPERATOR(%I.%s) $1::%s)', column_sql,
                           CASE WHEN side.search_type = '' THEN '' ELSE '::' || type_sql END, side.vector_schema,
                           CASE side.distance WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' ELSE '<#>' END, type_sql);
    RETURN format('SELECT %s, %s FROM %s WHERE (%s) AND %s IS NOT NULL AND (%s) ORDER BY %s LIMIT $2',
                  key_sql, distance_sql, source,
                  coalesce(replace(side.scope_sql, 'embedtui_row.',
                                   format('%I.%I.', side.table_schema, side.table_name)), 'true'),
                  column_sql, coalesce(filter, 'true'), distance_sql);
END
$$;

-- Whether a filtered search has to tell pgvector to go on after ef_search candidates, however few of them pass.
CREATE OR REPLACE FUNCTION embedtui.search_iterates() RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(nullif(current_setting('hnsw.iterative_scan', true), ''), 'off') = 'off'
           AND EXISTS (SELECT FROM pg_extension
                       WHERE extname = 'vector'
                         AND string_to_array(substring(extversion FROM '^[0-9.]+'), '.')::integer[] >= ARRAY[0, 8])
$$;

-- Takes the tables' weakest lock until the caller's transaction ends. A cleanup or an exchange of names needs the
-- strongest: with this one held, what is looked up next stays true.
CREATE OR REPLACE FUNCTION embedtui.search_hold(name text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    source text;
BEGIN
    FOR source IN SELECT DISTINCT unnest(ARRAY[format('%I.%I', s.table_schema, s.table_name),
                                               format('%I.%I', s.relation_schema, s.relation_name)])
                  FROM embedtui.route_side s WHERE s.name = search_hold.name AND s.present LOOP
        EXECUTE format('SELECT FROM %s LIMIT 0', source);
    END LOOP;
END
$$;

-- A vector as its model gives it, as the column holds it: padded, divided by its length, or as it is.
CREATE OR REPLACE FUNCTION embedtui.shaped(vector {vector}.vector, size integer, normalise boolean)
RETURNS {vector}.vector LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    numbers real[] := vector::real[];
    length double precision := {vector}.vector_norm(vector);
BEGIN
    IF normalise AND length > 0 THEN
        numbers := ARRAY(SELECT (u.number / length)::real FROM unnest(numbers) WITH ORDINALITY AS u (number, place)
                         ORDER BY u.place);
    END IF;
    IF cardinality(numbers) < size THEN
        numbers := numbers || array_fill(0::real, ARRAY[size - cardinality(numbers)]);
    END IF;
    RETURN numbers::{vector}.vector;
END
$$;

-- The same for a vector of a route's model, which its own size tells from another's of that name.
CREATE OR REPLACE FUNCTION embedtui.search_vector(name text, model text, vector {vector}.vector) RETURNS {vector}.vector
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((
        SELECT embedtui.shaped(search_vector.vector, s.dimensions, s.normalise)
        FROM embedtui.route_side s
        WHERE s.name = search_vector.name AND search_vector.model IN (s.model, s.model_id::text)
          AND {vector}.vector_dims(search_vector.vector) IN (s.given, s.dimensions)
          AND (s.normalise OR s.given < s.dimensions)
        LIMIT 1), search_vector.vector)
$$;

-- A vector of the new model as the map of this version makes it one of the old model.
CREATE OR REPLACE FUNCTION embedtui.bridge_vector(bridge integer, vector {vector}.vector) RETURNS {vector}.vector
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mapped real[];
    size integer := {vector}.vector_dims(vector);
    known integer := (SELECT sum({vector}.vector_dims(w.weights)) FROM embedtui.bridge_row w
                      WHERE w.bridge = bridge_vector.bridge AND w.position = 1);
BEGIN
    IF known IS DISTINCT FROM size THEN
        RAISE EXCEPTION 'the bridge takes % dimensions, the vector has %', coalesce(known, 0), size
            USING ERRCODE = 'data_exception';
    END IF;
    IF size <= 1950 THEN
        mapped := ARRAY(SELECT ({vector}.inner_product(w.weights, bridge_vector.vector) + w.shift)::real
                        FROM embedtui.bridge_row w WHERE w.bridge = bridge_vector.bridge ORDER BY w.position);
    ELSE
        mapped := ARRAY(SELECT sum({vector}.inner_product(w.weights, {vector}.subvector(
                                   bridge_vector.vector, w.first, {vector}.vector_dims(w.weights))) + w.shift)::real
                        FROM embedtui.bridge_row w WHERE w.bridge = bridge_vector.bridge
                        GROUP BY w.position ORDER BY w.position);
    END IF;
    RETURN mapped::{vector}.vector;
END
$$;

-- A vector of the new model as the route's bridge makes it one of the old model: to search the old column with.
CREATE OR REPLACE FUNCTION embedtui.bridge(name text, vector {vector}.vector) RETURNS {vector}.vector
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    map integer := (SELECT s.bridge FROM embedtui.route_side s
                    WHERE s.name = bridge.name AND s.side = 'old' AND s.present);
    made_by text := (SELECT s.model_id::text FROM embedtui.route_side s WHERE s.name = bridge.name AND s.side = 'new');
BEGIN
    IF map IS NULL THEN
        RAISE EXCEPTION 'route "%" has no bridge', bridge.name USING ERRCODE = 'undefined_object';
    END IF;
    RETURN embedtui.bridge_vector(map, embedtui.search_vector(bridge.name, made_by, bridge.vector));
END
$$;

-- The map that a search by this model's vectors goes through, and the model that it then searches for; no row where it
-- goes straight. While the new side is not whole yet, it goes through the last map also after the bridge is off: for
-- requests that embedded before that, and because what is missing there would be missing among their results.
CREATE OR REPLACE FUNCTION embedtui.search_bridge(name text, model text, size integer)
RETURNS TABLE (map integer, old_model text, old_size integer)
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.bridge, o.model_id::text, o.dimensions
    FROM embedtui.route_side o
    JOIN embedtui.route_side n ON n.name = o.name AND n.side = 'new'
    WHERE o.name = search_bridge.name AND o.side = 'old' AND o.present AND o.active AND o.bridge IS NOT NULL
      AND (o.bridging OR o.phase IN ('prepare', 'backfill', 'index'))
      AND search_bridge.model IN (n.model, n.model_id::text)
      -- of two models with one name the dimensions tell; else search_statement says that nothing does
      AND (search_bridge.model NOT IN (o.model, o.model_id::text) OR o.dimensions <> n.dimensions)
      AND search_bridge.size = n.dimensions
$$;

-- Nearest rows for a query vector. The vector's own model decides which side is searched, so a request embedded before a
-- flip still searches the side its vector belongs to. "model" is the model's name, or its id as text where two models of
-- the route share a name. "filter" is trusted SQL on the user's table, evaluated inside the search, with the caller's
-- rights and search_path. "key" is the key column's text; of a composite key, a JSON array of the columns' texts.
CREATE OR REPLACE FUNCTION embedtui.search(name text, model text, vector {vector}.vector, k integer DEFAULT 10,
                                           filter text DEFAULT NULL)
RETURNS TABLE (key text, distance double precision)
LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$ -- volatile: it has to see names that changed while it waited
DECLARE
    statement pg_catalog.text;
    iterative pg_catalog.bool := embedtui.search_iterates() AND (search.filter IS NOT NULL OR EXISTS (
        SELECT FROM embedtui.route_side s
        WHERE s.name OPERATOR(pg_catalog.=) search.name AND s.scope_sql IS NOT NULL));
    bridged pg_catalog.record;
    sought {vector}.vector := embedtui.search_vector(search.name, search.model, search.vector);
    size pg_catalog.int4 := {vector}.vector_dims(sought);
    made_by pg_catalog.text := search.model;
BEGIN
    PERFORM embedtui.search_hold(search.name);
    SELECT b.* INTO bridged FROM embedtui.search_bridge(search.name, search.model, size) AS b;
    IF FOUND THEN
        sought := embedtui.bridge_vector(bridged.map, sought);
        size := bridged.old_size;
        made_by := bridged.old_model;
    END IF;
    statement := embedtui.search_statement(search.name, made_by, size, search.filter);
    IF iterative THEN
        PERFORM pg_catalog.set_config('hnsw.iterative_scan', 'strict_order', true),
                pg_catalog.set_config('ivfflat.iterative_scan', 'relaxed_order', true);
    END IF;
    RETURN QUERY EXECUTE statement USING sought, search.k;
    IF iterative THEN
        PERFORM pg_catalog.set_config('hnsw.iterative_scan', 'off', true),
                pg_catalog.set_config('ivfflat.iterative_scan', 'off', true);
    END IF;
END
$$;
