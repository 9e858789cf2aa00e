-- What measuring took beside the work, which is in no count of it: queries of comparisons and rows that verify embedded
-- again, of the new model and of the old one; and the proof before the first run, of the old one. And planned rows whose
-- first new vector sync made, which are in no shard's count.
ALTER TABLE embedtui.migration
    ADD COLUMN asked_new bigint NOT NULL DEFAULT 0,
    ADD COLUMN asked_old bigint NOT NULL DEFAULT 0,
    ADD COLUMN proof_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN synced_first bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT migration_synced_first CHECK (abs(synced_first::numeric) <= 1e15) NOT VALID,
    ADD CONSTRAINT migration_asked_new CHECK (abs(asked_new::numeric) <= 1e15) NOT VALID,
    ADD CONSTRAINT migration_asked_old CHECK (abs(asked_old::numeric) <= 1e15) NOT VALID,
    ADD CONSTRAINT migration_proof_tokens CHECK (abs(proof_tokens::numeric) <= 1e15) NOT VALID;

-- whoever counts what the old side takes counts these, too
DO $$
DECLARE
    g record;
BEGIN
    FOR g IN SELECT DISTINCT a.grantee
             FROM pg_catalog.pg_attribute c, pg_catalog.pg_class r, pg_catalog.aclexplode(c.attacl) a
             WHERE c.attrelid = 'embedtui.migration'::regclass AND c.attname = 'old_tokens' AND r.oid = c.attrelid
               AND a.privilege_type = 'UPDATE' AND a.grantee NOT IN (0, r.relowner)
    LOOP
        EXECUTE format('GRANT UPDATE (asked_new, asked_old, proof_tokens, synced_first) ON embedtui.migration'
                       ' TO %s', g.grantee::regrole);
    END LOOP;
END $$;
