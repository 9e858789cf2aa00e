-- Our sessions have search_path = pg_catalog, pg_temp: types carry their schema, and so does what tells keys apart.
ALTER TABLE embedtui.migration
    ADD COLUMN content_types text[] NOT NULL DEFAULT '{}',
    -- schema of each key column's operator "="
    ADD COLUMN key_equality text[] NOT NULL DEFAULT '{}';

WITH RECURSIVE plain AS (
    SELECT m.id, c.role, c.place, t.oid, a.atttypmod AS modifier, t.typtype, t.typbasetype, t.typtypmod
    FROM embedtui.migration m
    CROSS JOIN LATERAL (
        SELECT 'key', name, place FROM unnest(m.key_columns) WITH ORDINALITY u (name, place)
        UNION ALL
        SELECT 'content', name, place FROM unnest(m.content_columns) WITH ORDINALITY u (name, place)
    ) c (role, name, place)
    JOIN pg_attribute a ON a.attrelid = m.table_oid AND a.attname = c.name AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    UNION ALL
    SELECT p.id, p.role, p.place, t.oid, p.typtypmod, t.typtype, t.typbasetype, t.typtypmod
    FROM plain p JOIN pg_type t ON t.oid = p.typbasetype WHERE p.typtype = 'd'
), found AS (
    SELECT id, role, array_agg(format_type(oid, modifier) ORDER BY place) AS types
    FROM plain WHERE typtype <> 'd' GROUP BY id, role
)
UPDATE embedtui.migration m SET
    key_types = coalesce((SELECT types FROM found f WHERE f.id = m.id AND f.role = 'key'
                          AND cardinality(types) = cardinality(m.key_columns)), m.key_types),
    content_types = coalesce((SELECT types FROM found f WHERE f.id = m.id AND f.role = 'content'
                              AND cardinality(types) = cardinality(m.content_columns)), '{}'),
    -- the operator that the key's own index compares by; btree's strategy 3 is equality
    key_equality = ARRAY(
        SELECT coalesce(
            (SELECT n.nspname
             FROM pg_attribute a
             JOIN pg_index x ON x.indrelid = a.attrelid AND x.indisunique
             CROSS JOIN unnest(x.indkey::int2[], x.indclass::oid[]) k (number, opclass)
             JOIN pg_opclass c ON c.oid = k.opclass
             JOIN pg_amop s ON s.amopfamily = c.opcfamily AND s.amopstrategy = 3
                           AND s.amoplefttype = c.opcintype AND s.amoprighttype = c.opcintype
             JOIN pg_operator o ON o.oid = s.amopopr
             JOIN pg_namespace n ON n.oid = o.oprnamespace
             WHERE a.attrelid = m.table_oid AND a.attname = u.name AND k.number = a.attnum
             ORDER BY x.indisprimary DESC LIMIT 1), 'pg_catalog')
        FROM unnest(m.key_columns) WITH ORDINALITY u (name, place) ORDER BY u.place);

-- A transaction whose changes could not be captured, and why: append-only as the queue, and beside it, since the queue
-- itself may be what is missing or locked.
CREATE TABLE embedtui.capture_fault (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration integer NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- roles that work on the queue work on this, too
DO $$
DECLARE
    g record;
BEGIN
    FOR g IN SELECT DISTINCT a.grantee, a.privilege_type
             FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
             WHERE c.oid = 'embedtui.queue'::regclass AND a.grantee NOT IN (0, c.relowner)
               AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    LOOP
        EXECUTE format('GRANT %s ON embedtui.capture_fault TO %s', g.privilege_type, g.grantee::regrole);
    END LOOP;
END $$;

-- What is about to take a side away, from its first step to its drop: the pointer does not move to that side meanwhile.
ALTER TABLE embedtui.route ADD COLUMN ending text CHECK (ending IN ('cleanup', 'abort'));

-- Partitions whose rows have been looked through, by the trigger that captures them since: a partition attached (again)
-- has another trigger, and may bring rows that nobody embedded.
CREATE TABLE embedtui.partition (
    migration integer NOT NULL REFERENCES embedtui.migration,
    leaf oid NOT NULL,
    trigger oid NOT NULL,
    PRIMARY KEY (migration, leaf)
);

-- Who wrote it as the server knows it: no role but the owner's may set these columns.
ALTER TABLE embedtui.audit ADD COLUMN role name NOT NULL DEFAULT current_user;
ALTER TABLE embedtui.evaluation ADD COLUMN role name NOT NULL DEFAULT current_user;

-- A value that the program does not know would end every process that reads it, the operator's rollback included.
ALTER TABLE embedtui.migration
    ADD CONSTRAINT migration_condition CHECK (condition IN ('idle', 'running', 'paused', 'throttled', 'failed'));
ALTER TABLE embedtui.fault
    ADD CONSTRAINT fault_class CHECK (class IN ('configuration', 'provider', 'row')),
    ADD CONSTRAINT fault_side CHECK (side IN ('old', 'new'));

-- A worker's role says that the rows are done and the index is built, and nothing else: an ended or cut-over migration
-- changes what production reads.
CREATE FUNCTION embedtui.guard_phase() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'MEMBER')
       AND (OLD.phase, NEW.phase) NOT IN (('backfill', 'index'), ('index', 'validate')) THEN
        RAISE EXCEPTION 'role % may not move a migration from phase % to phase %', current_user, OLD.phase, NEW.phase
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
-- from PUBLIC, and from whom default privileges let at it
DO $$
DECLARE
    g record;
BEGIN
    FOR g IN SELECT DISTINCT a.grantee
             FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
             WHERE p.oid = 'embedtui.guard_phase()'::regprocedure AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION embedtui.guard_phase() FROM %s',
                       CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END);
    END LOOP;
END $$;
-- where an event trigger refuses all triggers, no worker is granted the phase (see privileges)
DO $$
BEGIN
    CREATE TRIGGER guard_phase BEFORE UPDATE ON embedtui.migration
        FOR EACH ROW WHEN (OLD.phase IS DISTINCT FROM NEW.phase) EXECUTE FUNCTION embedtui.guard_phase();
EXCEPTION WHEN OTHERS THEN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D') THEN RAISE; END IF;
    RAISE WARNING 'embedtui: no trigger guards the phase: %', SQLERRM;
END $$;

-- What a statement of the application did to the row. A vector that it wrote itself is its own to decide: sync leaves it
-- alone until the content changes without one. A key change says which row's earlier entries go on under the new key.
ALTER TABLE embedtui.queue
    ADD COLUMN edited boolean NOT NULL DEFAULT true,
    ADD COLUMN was text[],
    ADD COLUMN wrote_old boolean NOT NULL DEFAULT false,
    ADD COLUMN wrote_new boolean NOT NULL DEFAULT false;

-- What an endpoint was found to take in one request, for later runs and other workers; unset: as its settings say.
ALTER TABLE embedtui.model
    ADD COLUMN learnt_inputs integer CHECK (learnt_inputs > 0),
    ADD COLUMN learnt_tokens bigint CHECK (learnt_tokens > 0),
    ADD COLUMN learnt_at timestamptz;
