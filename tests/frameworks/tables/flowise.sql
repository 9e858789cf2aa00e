-- published: langchainjs, vectorstores/typeorm.ts, ensureTableInDatabase
-- table: documents
CREATE TABLE IF NOT EXISTS documents (
    "id" uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY, -- uuid_generate_v4() there
    "pageContent" text,
    metadata jsonb,
    embedding vector
);
INSERT INTO documents ("pageContent", metadata, embedding) VALUES ('Refunds are paid within five days.', '{}', '[1,1,1,1,1,1,1,1]');
