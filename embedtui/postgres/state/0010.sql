-- All other numbers that roles other than the owner may write are bounded, too: what is added to them, or made of them,
-- is a number. Rows that are there are not read for it.
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT * FROM (VALUES
        ('model', 'learnt_inputs', 9), ('model', 'learnt_tokens', 15), ('worker', 'rows', 15), ('worker', 'in_flight', 9),
        ('shard', 'first_block', 10), ('shard', 'last_block', 10), ('shard', 'passes', 9), ('fault', 'attempts', 9),
        ('pace', 'token_level', 15), ('pace', 'request_level', 15), ('pace', 'concurrency', 9),
        ('pace', 'characters_per_token', 15), ('listener', 'epoch', 15), ('evaluation', 'k', 9),
        ('evaluation', 'queries', 9), ('batch_job', 'inputs', 9), ('batch_job', 'lines', 9), ('batch_job', 'finished', 9),
        ('batch_line', 'bytes', 12), ('batch_line', 'tokens', 12))
        AS x (relation, name, digits)
    LOOP
        EXECUTE format('ALTER TABLE embedtui.%I ADD CONSTRAINT %I CHECK (abs(%I::numeric) <= 1e%s) NOT VALID',
                       c.relation, c.relation || '_' || c.name, c.name, c.digits);
    END LOOP;
END $$;
