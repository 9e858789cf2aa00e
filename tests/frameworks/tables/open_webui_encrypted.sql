-- published: open-webui 03349e6, the same with PGVECTOR_PGCRYPTO
-- table: document_chunk
CREATE TABLE document_chunk (
    id TEXT NOT NULL,
    vector VECTOR(8),
    collection_name TEXT NOT NULL,
    text BYTEA,
    vmetadata BYTEA,
    PRIMARY KEY (id)
);
INSERT INTO document_chunk VALUES ('a', '[1,2,3,4,0,0,0,0]', 'file-1', '\xc30d04', '\xc30d04');
