-- pgvector-haystack 8.1.2, 2026-11-27: its own statements and rows, recorded by tests/frameworks/record.py.
-- table: haystack_documents
-- embedded: {"key": ["1d9eb4352dec092dfd29e782e968e684c3352da70c71ab857cd5dca35632559a"], "text": "Refunds are paid within five days."}
-- embedded: {"key": ["4791d4162ab0486ca7cc9a8b19e8244a9c9c25ad87fcc704454db643d411a906"], "text": "Water the ficus\nonce a week, never more."}
-- embedded: {"key": ["6a23cf29aec9cc5ca7a3b3bdbbc5b192ef9659639473282a39bec978e053da62"], "text": "The night train leaves at 22:04 from platform 7."}
CREATE TABLE "public"."haystack_documents" (
id VARCHAR(128) PRIMARY KEY,
embedding vector(8),
content TEXT,
blob_data BYTEA,
blob_meta JSONB,
blob_mime_type VARCHAR(255),
meta JSONB);
CREATE INDEX "haystack_keyword_index" ON "public"."haystack_documents" USING GIN (to_tsvector('english', content));
DROP INDEX IF EXISTS "public"."haystack_hnsw_index";
CREATE INDEX "haystack_hnsw_index" ON "public"."haystack_documents" USING hnsw (embedding vector_cosine_ops);
INSERT INTO haystack_documents ("id", "embedding", "content", "blob_data", "blob_meta", "blob_mime_type", "meta") VALUES ('1d9eb4352dec092dfd29e782e968e684c3352da70c71ab857cd5dca35632559a', '[1,1,1,1,1,1,1,1]', 'Refunds are paid within five days.', NULL, NULL, NULL, '{"page": 1, "title": "Refunds"}');
INSERT INTO haystack_documents ("id", "embedding", "content", "blob_data", "blob_meta", "blob_mime_type", "meta") VALUES ('4791d4162ab0486ca7cc9a8b19e8244a9c9c25ad87fcc704454db643d411a906', '[2,1,1,1,1,1,1,1]', 'Water the ficus
once a week, never more.', NULL, NULL, NULL, '{"page": 2, "title": "Plants"}');
INSERT INTO haystack_documents ("id", "embedding", "content", "blob_data", "blob_meta", "blob_mime_type", "meta") VALUES ('6a23cf29aec9cc5ca7a3b3bdbbc5b192ef9659639473282a39bec978e053da62', '[3,1,1,1,1,1,1,1]', 'The night train leaves at 22:04 from platform 7.', NULL, NULL, NULL, '{"page": 3, "title": "Trains"}');
