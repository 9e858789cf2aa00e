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
