-- A bridge: a linear map from the new model's vectors to the old one's, with the figures it was chosen by. It never
-- changes: a map fitted again is another one, and who holds a version holds it whole.
CREATE TABLE embedtui.bridge (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL REFERENCES embedtui.migration,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    role name NOT NULL DEFAULT current_user,
    figures jsonb NOT NULL
);

-- Its matrix: what makes one dimension of an old vector, cut into parts that a page holds, so that none is kept apart
-- from its row. The type is pgvector's, whose inner product makes a mapped vector in the database.
DO $$
BEGIN
    EXECUTE format(
        'CREATE TABLE embedtui.bridge_row (
             bridge integer NOT NULL REFERENCES embedtui.bridge ON DELETE CASCADE,
             position integer NOT NULL,  -- of the old dimension, from 1
             first integer NOT NULL,     -- of the new dimensions in this part, from 1
             shift double precision NOT NULL,
             weights %I.vector NOT NULL,
             PRIMARY KEY (bridge, position, first))',
        (SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
         WHERE e.extname = 'vector'));
END $$;
ALTER TABLE embedtui.bridge_row ALTER COLUMN weights SET STORAGE PLAIN;

-- Rows that it is fitted on, in the order in which they were drawn, before any is embedded: who goes on with it goes on
-- with these, wherever in the table they stand by then.
CREATE TABLE embedtui.bridge_sample (
    migration integer NOT NULL REFERENCES embedtui.migration,
    number integer NOT NULL,
    shard bigint NOT NULL REFERENCES embedtui.shard ON DELETE CASCADE,
    page bigint NOT NULL,
    key text[] NOT NULL,
    PRIMARY KEY (migration, number)
);

-- bridging: searches by the new model's vectors go through the map to the old side while that one serves. The map stays
-- when it is off, and through a cutover, for the requests under way and for the way back.
ALTER TABLE embedtui.route
    ADD COLUMN bridge integer REFERENCES embedtui.bridge,
    ADD COLUMN bridging boolean NOT NULL DEFAULT false CHECK (NOT bridging OR bridge IS NOT NULL);

-- A row whose old vector is not the old model's of its present content: of earlier content; or made by a bridge (which,
-- and the digest of what it made: another vector is somebody else's); or missing.
ALTER TABLE embedtui.stale
    ADD COLUMN bridge integer REFERENCES embedtui.bridge,
    ADD COLUMN digest text,
    ADD COLUMN missing boolean NOT NULL DEFAULT false,
    ADD COLUMN embed boolean NOT NULL DEFAULT true,  -- once the old model answers; not what never had an old vector
    ADD CHECK ((bridge IS NULL) = (digest IS NULL) AND NOT (missing AND bridge IS NOT NULL)) NOT VALID;

-- A service that finds the new side by the routed view alone: no cutover serves it without that.
ALTER TABLE embedtui.listener ADD COLUMN by_view boolean NOT NULL DEFAULT false;
-- What its last searches took: p50 and p95 in ms, of the old side and of the new; null where it made none of late.
ALTER TABLE embedtui.listener ADD COLUMN latency_ms real[]
    CHECK (cardinality(latency_ms) = 4 AND 0 <= ALL (latency_ms) AND 1e9 >= ALL (latency_ms));

-- whoever reads the pointer reads what it serves by; a service that reports itself follows it, and needs the map
DO $$
DECLARE
    g record;
BEGIN
    FOR g IN SELECT DISTINCT a.grantee, c.relname
             FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
             WHERE a.grantee NOT IN (0, c.relowner)
               AND (c.oid = 'embedtui.route'::regclass AND a.privilege_type = 'SELECT'
                    OR c.oid = 'embedtui.listener'::regclass AND a.privilege_type = 'DELETE')
    LOOP
        EXECUTE format('GRANT SELECT ON embedtui.%I TO %s',
                       CASE g.relname WHEN 'route' THEN 'bridge' ELSE 'bridge_row' END, g.grantee::regrole);
    END LOOP;
    -- and workers keep the marks of stale rows
    FOR g IN SELECT DISTINCT a.grantee
             FROM pg_catalog.pg_attribute c, pg_catalog.pg_class r, pg_catalog.aclexplode(c.attacl) a
             WHERE c.attrelid = 'embedtui.stale'::regclass AND c.attname = 'key' AND r.oid = c.attrelid
               AND a.privilege_type = 'INSERT' AND a.grantee NOT IN (0, r.relowner)
    LOOP
        EXECUTE format('GRANT INSERT (bridge, digest, missing, embed), UPDATE (bridge, digest, missing)'
                       ' ON embedtui.stale TO %s', g.grantee::regrole);
        EXECUTE format('GRANT SELECT ON embedtui.bridge_row TO %s', g.grantee::regrole);
    END LOOP;
    -- which watchers count
    FOR g IN SELECT DISTINCT a.grantee
             FROM pg_catalog.pg_attribute c, pg_catalog.aclexplode(c.attacl) a
             WHERE c.attrelid = 'embedtui.stale'::regclass AND c.attname = 'at' AND a.privilege_type = 'SELECT'
               AND a.grantee <> 0
    LOOP
        EXECUTE format('GRANT SELECT (bridge, missing) ON embedtui.stale TO %s', g.grantee::regrole);
    END LOOP;
    -- and services report themselves
    FOR g IN SELECT DISTINCT a.grantee
             FROM pg_catalog.pg_attribute c, pg_catalog.pg_class r, pg_catalog.aclexplode(c.attacl) a
             WHERE c.attrelid = 'embedtui.listener'::regclass AND c.attname = 'epoch' AND r.oid = c.attrelid
               AND a.privilege_type = 'INSERT' AND a.grantee NOT IN (0, r.relowner)
    LOOP
        EXECUTE format('GRANT SELECT (by_view, latency_ms), INSERT (by_view, latency_ms), UPDATE (by_view, latency_ms)'
                       ' ON embedtui.listener TO %s', g.grantee::regrole);
    END LOOP;
END $$;

-- Where the texts are in another table: an entry of kind x has the key of a row of that table; sync queues the rows that
-- refer to it in its place, each with the entry that it comes from, since what came after that came after them all.
ALTER TABLE embedtui.queue
    ADD COLUMN text_key text[],
    ADD COLUMN text_entry bigint;
CREATE INDEX queue_text ON embedtui.queue (migration, id) WHERE text_key IS NOT NULL;

-- What a vector goes through before it is stored: zeros are added to the numbers that the model gives (null: as many as
-- its dimensions), and it is divided by its length.
ALTER TABLE embedtui.model ADD COLUMN given integer, ADD COLUMN normalise boolean NOT NULL DEFAULT false;
-- What keeping the old side current took of its model, which is not the new one's price.
ALTER TABLE embedtui.migration ADD COLUMN old_tokens bigint NOT NULL DEFAULT 0;
-- Which process wrote a line, by its own word: a terminal tells its own acts from those of others.
ALTER TABLE embedtui.audit
    ADD COLUMN pid integer DEFAULT nullif(pg_catalog.current_setting('embedtui.pid', true), '')::integer;

-- A worker's role may have been granted session_replication_role, to pass the application's triggers: not this one.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger
               WHERE tgrelid = 'embedtui.migration'::regclass AND tgname = 'guard_phase') THEN
        ALTER TABLE embedtui.migration ENABLE ALWAYS TRIGGER guard_phase;
    END IF;
END $$;

-- Times that roles other than the owner may write are times: on infinity, or on a year that no client can read, everybody
-- else's look at the state would fail. Rows that are there are not read for it.
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT * FROM (VALUES
        ('migration', 'phase_at'), ('model', 'learnt_at'), ('worker', 'since'), ('worker', 'heartbeat'),
        ('worker', 'stopped_at'), ('shard', 'lease_until'), ('queue', 'at'), ('fault', 'last_seen'),
        ('pace', 'filled_at'), ('pace', 'blocked_until'), ('listener', 'epoch_seen_at'), ('listener', 'heartbeat'),
        ('batch_job', 'asked_at'), ('batch_job', 'sent_at'), ('batch_job', 'looked_at'), ('batch_job', 'missing_since'),
        ('batch_job', 'ended_at')) AS x (relation, name)
    LOOP
        EXECUTE format('ALTER TABLE embedtui.%I ADD CONSTRAINT %I'
                       ' CHECK (%I BETWEEN ''2000-01-01'' AND ''3000-01-01'') NOT VALID',
                       c.relation, c.relation || '_' || c.name, c.name);
    END LOOP;
    -- and so are their counters: no sum of them overflows
    FOR c IN SELECT * FROM (VALUES
        ('migration', 'total_rows', 15), ('migration', 'synced', 15), ('migration', 'synced_tokens', 15),
        ('migration', 'old_tokens', 15),
        ('shard', 'rows', 12), ('shard', 'updates', 12), ('shard', 'hot_updates', 12), ('shard', 'tokens', 12),
        ('pace', 'spent_tokens', 15), ('pace', 'requests', 15), ('pace', 'rejected', 15),
        ('batch_job', 'estimate', 12), ('batch_job', 'reserved', 12), ('batch_job', 'rows', 12),
        ('batch_job', 'tokens', 12), ('listener', 'searches_old', 15), ('listener', 'searches_new', 15))
        AS x (relation, name, digits)
    LOOP
        EXECUTE format('ALTER TABLE embedtui.%I ADD CONSTRAINT %I CHECK (abs(%I::numeric) <= 1e%s) NOT VALID',
                       c.relation, c.relation || '_' || c.name, c.name, c.digits);
    END LOOP;
END $$;
