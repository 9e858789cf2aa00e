-- published: https://supabase.com/docs/guides/ai/langchain
-- table: documents
create table documents (
  id bigserial primary key,
  content text, -- corresponds to Document.pageContent
  metadata jsonb, -- corresponds to Document.metadata
  embedding vector(8) -- 1536 works for OpenAI embeddings, change if needed
);
create function match_documents (
  query_embedding vector(8),
  match_count int default null,
  filter jsonb DEFAULT '{}'
) returns table (
  id bigint,
  content text,
  metadata jsonb,
  similarity float
)
language plpgsql
as $$
#variable_conflict use_column
begin
  return query
  select
    id,
    content,
    metadata,
    1 - (documents.embedding <=> query_embedding) as similarity
  from documents
  where metadata @> filter
  order by documents.embedding <=> query_embedding
  limit match_count;
end;
$$;
INSERT INTO documents (content, metadata, embedding) VALUES ('Refunds are paid within five days.', '{}', '[1,1,1,1,1,1,1,1]');
