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
REVOKE EXECUTE ON FUNCTION embedtui.guard_phase() FROM PUBLIC;
CREATE TRIGGER guard_phase BEFORE UPDATE ON embedtui.migration
    FOR EACH ROW WHEN (OLD.phase IS DISTINCT FROM NEW.phase) EXECUTE FUNCTION embedtui.guard_phase();
