"""The manners of each provider, by the name that the setting ``provider`` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Provider:
    """How a provider is asked for embeddings, where that is not as OpenAI is.

    A limit is what the provider documents, or what ``source`` saw it refuse; one that is not named here is not
    documented, and OpenAI's is assumed. One that is found at work comes before a larger one here, and a setting of the
    model before either.
    """

    source: str
    """Where it is from."""
    checked: str
    """Day on which that was looked up, ISO; most of it by excerpts of these pages."""
    base_url: str = ""
    """Its own; empty where each installation has another, which the model's ``base_url`` then says."""
    key_variable: str = ""
    """Usual name of the variable that holds the key; empty: mostly none is needed."""
    path: str = "/embeddings"
    key_header: str = ""
    """Header that carries the key; empty: ``Authorization: Bearer``."""
    texts_field: str = "input"
    dimensions_field: str = "dimensions"
    send_dimensions: bool = True
    """Whether models that nothing is known of are told how many dimensions are wanted."""
    base64: Mapping[str, object] = field(default_factory=lambda: {"encoding_format": "base64"})
    """Fields that ask for vectors in base64; empty: it does not know that."""
    document: Mapping[str, object] = field(default_factory=dict)
    """Further fields for texts of the table."""
    query: Mapping[str, object] = field(default_factory=dict)
    """The same for queries."""
    vectors_at: tuple[str, ...] = ()
    """Names under which a plain list of vectors stands in the reply; empty: ``data``, items with an index."""
    tokens_at: tuple[str, ...] = ()
    """Names under which the tokens stand; empty: ``usage``."""
    max_inputs: int = 2048
    """Texts of a request."""
    max_tokens: int = 300_000
    """Of a request, all texts together."""
    max_input_tokens: int = 8192
    """Of one text."""


PROVIDERS: Mapping[str, Provider] = {
    "openai": Provider(
        "developers.openai.com/api/reference/resources/embeddings: 2,048 inputs, 300,000 tokens, 8,192 a text",
        "2026-11-27",
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
    ),
    "azure": Provider(
        # base_url: https://RESOURCE.openai.azure.com/openai/v1, model: the deployment's name; or, before that API,
        # https://RESOURCE.openai.azure.com/openai/deployments/DEPLOYMENT?api-version=2024-10-21
        "learn.microsoft.com/azure/foundry/openai/how-to/embeddings; api-key header as in its REST reference",
        "2026-11-27",
        key_variable="AZURE_OPENAI_API_KEY",
        key_header="api-key",
    ),
    "gemini": Provider(
        # "at most 100 requests can be in one batch"; encoding_format is an unknown name for some of its versions
        "ai.google.dev/gemini-api/docs/openai; github.com/StarTrail-org/LEANN/pull/214 (100 inputs),"
        " github.com/BerriAI/litellm/pull/17150 (encoding_format)",
        "2026-11-27",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_variable="GEMINI_API_KEY",
        base64={},
        max_inputs=100,
        max_input_tokens=2048,
    ),
    "voyage": Provider(
        # 120,000 tokens is the least of its models; a longer text is cut by default: truncation = false refuses it
        "docs.voyageai.com/reference/embeddings-api: 1,000 inputs; 120K, 320K or 1M tokens by model",
        "2026-11-27",
        base_url="https://api.voyageai.com/v1",
        key_variable="VOYAGE_API_KEY",
        dimensions_field="output_dimension",
        document={"input_type": "document"},
        query={"input_type": "query"},
        max_inputs=1000,
        max_tokens=120_000,
        max_input_tokens=32_000,
    ),
    "cohere": Provider(
        # its own API: the compatible one knows neither input_type nor dimensions
        "docs.cohere.com/reference/embed: 96 texts; docs.cohere.com/docs/compatibility-api: what that leaves out",
        "2026-11-27",
        base_url="https://api.cohere.com/v2",
        key_variable="COHERE_API_KEY",
        path="/embed",
        texts_field="texts",
        dimensions_field="output_dimension",
        base64={},
        document={"input_type": "search_document", "embedding_types": ["float"]},
        query={"input_type": "search_query", "embedding_types": ["float"]},
        vectors_at=("embeddings", "float"),
        tokens_at=("meta", "billed_units", "input_tokens"),
        max_inputs=96,
        max_input_tokens=128_000,
    ),
    "jina": Provider(
        # for jina-embeddings-v3 and later; v2 has no task: extra_body = { task = "" }. Its documents say nothing of the
        # inputs of a request; v4 refuses more than 512 ("Each input list can contain at most 512 items")
        "api.jina.ai/openapi.json: task, dimensions, embedding_type;"
        " github.com/langgenius/dify-official-plugins/issues/1997 (512 inputs)",
        "2026-11-27",
        base_url="https://api.jina.ai/v1",
        key_variable="JINA_API_KEY",
        base64={"embedding_type": "base64"},
        document={"task": "retrieval.passage"},
        query={"task": "retrieval.query"},
        max_inputs=512,
    ),
    "mistral": Provider(
        # neither limit is documented: one client found 256 inputs, another 512; its refusal has "Max is 16384" tokens
        "docs.mistral.ai/api/endpoint/embeddings; docs.rs/crate/rig-core (256 inputs),"
        " github.com/raphaelmansuy/edgequake-llm/pull/74 (512); github.com/aurelio-labs/semantic-router/issues/297,"
        " reference.langchain.com langchain_mistralai.embeddings (16,000 tokens)",
        "2026-11-27",
        base_url="https://api.mistral.ai/v1",
        key_variable="MISTRAL_API_KEY",
        dimensions_field="output_dimension",
        max_inputs=256,
        max_tokens=16_000,
    ),
    "ollama": Provider(
        # older versions leave encoding_format and dimensions aside without a word
        "github.com/ollama/ollama openai/openai.go (EmbedRequest)",
        "2026-11-27",
        base_url="http://127.0.0.1:11434/v1",
        send_dimensions=False,
    ),
    "vllm": Provider(
        # refuses `dimensions`, even the model's own, for models without Matryoshka representations
        "github.com/vllm-project/vllm/pull/16331",
        "2026-11-27",
        send_dimensions=False,
    ),
    "tei": Provider(
        # 413 beyond --max-client-batch-size (32), 422 for a text it cannot tokenize, 424 from its backend; older
        # versions leave encoding_format and dimensions aside without a word
        "github.com/huggingface/text-embeddings-inference: docs/source/en/cli_arguments.md, router/src/http/types.rs",
        "2026-11-27",
        send_dimensions=False,
        max_inputs=32,
    ),
    "litellm": Provider(
        # whether it takes encoding_format and dimensions is the provider's behind it: found by the first refusal
        "docs.litellm.ai/docs/embedding/supported_embedding; github.com/zilliztech/claude-context/issues/185",
        "2026-11-27",
        key_variable="LITELLM_API_KEY",
    ),
    "bedrock": Provider(
        # a gateway that speaks OpenAI's API: Cohere's models take 96 texts (and 2,048 characters of each: it cuts what
        # is longer), Titan's one (see models.py); it asks for queries as for documents; Cohere gets no token count
        "github.com/aws-samples/bedrock-access-gateway: src/api/models/bedrock.py;"
        " docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-embed.html (96 texts)",
        "2026-11-27",
        key_variable="BEDROCK_API_KEY",
        send_dimensions=False,
        max_inputs=96,
    ),
}
"""``openai`` stands for all that speak its API and are not named here."""


def provider(name: str) -> Provider:
    """The manners of the provider called ``name``; those of OpenAI where nothing is known of it."""
    return PROVIDERS.get(name) or Provider("", "")
