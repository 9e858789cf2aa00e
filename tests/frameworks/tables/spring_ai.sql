-- published: spring-ai 005c1a4, PgVectorStore.java
-- table: public.vector_store
CREATE TABLE IF NOT EXISTS public.vector_store (
    id uuid DEFAULT gen_random_uuid() PRIMARY KEY, -- uuid_generate_v4() there
    content text,
    metadata json,
    embedding vector(8)
);
CREATE INDEX IF NOT EXISTS spring_ai_vector_index ON public.vector_store USING HNSW (embedding vector_cosine_ops);
INSERT INTO public.vector_store (content, metadata, embedding)
VALUES ('Refunds are paid within five days.', '{"page": 1}', '[1,1,1,1,1,1,1,1]');
