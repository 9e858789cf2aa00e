-- published: langchainjs 03cb00b, vectorstores/pgvector.ts, ensureTableInDatabase; n8n's default names
-- table: n8n_vectors
CREATE TABLE IF NOT EXISTS n8n_vectors (
    "id" uuid NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    "text" text,
    "metadata" jsonb,
    "embedding" vector
);
INSERT INTO n8n_vectors (text, metadata, embedding) VALUES ('Refunds are paid within five days.', '{}', '[1,1,1,1,1,1,1,1]');
