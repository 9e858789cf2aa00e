-- published: semantic-kernel 01f4be0, Connectors.Memory.Postgres/PostgresDbClient.cs
-- table: public."aboutMe"
CREATE TABLE IF NOT EXISTS public."aboutMe" (
    key TEXT NOT NULL,
    metadata JSONB,
    embedding vector(8),
    timestamp TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (key));
INSERT INTO public."aboutMe" VALUES ('info1', '{"is_reference": false, "id": "info1", "description": "", "text": "Refunds are paid within five days."}', '[1,1,1,1,1,1,1,1]', now());
