-- published: kernel-memory 0015c7e, PostgresDbClient.cs, CreateTableAsync
-- table: public."km-default"
CREATE TABLE IF NOT EXISTS public."km-default" (
    id        TEXT NOT NULL PRIMARY KEY,
    embedding vector(8),
    tags      TEXT[] DEFAULT '{}'::TEXT[] NOT NULL,
    content   TEXT DEFAULT '' NOT NULL,
    payload   JSONB DEFAULT '{}'::JSONB NOT NULL
);
CREATE INDEX IF NOT EXISTS "km-default_idx_tags" ON public."km-default" USING GIN(tags);
CREATE INDEX IF NOT EXISTS "km-default_idx_content" ON public."km-default" USING GIN(to_tsvector('english',content));
INSERT INTO public."km-default" VALUES ('d=1//p=1', '[1,1,1,1,1,1,1,1]', '{a}', 'Refunds are paid within five days.', '{"file": "f"}');
