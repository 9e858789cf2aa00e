"""Servers that are not OpenAI's: where they are asked, what they want to be told and refuse, and how they answer.

Written from the providers' documentation and from replies that people quote, not from `embedtui.known`: a test of that
has to be able to fail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedtui.demo.api.protocol import Refusal


@dataclass(frozen=True, slots=True)
class Manners:
    """How one server behaves."""

    base: str = "/v1"
    """Path of the base URL, with the query that each request needs."""
    path: str = "/embeddings"
    key_header: str = "authorization"
    texts: str = "input"
    dimensions: str = "dimensions"
    """Field for the wanted size; "" where none is known."""
    base64: Mapping[str, str] = field(default_factory=lambda: {"encoding_format": "base64"})
    """What asks for base64; empty: numbers always."""
    refused: Sequence[str] = ()
    """Fields that make it refuse a request; others that it does not know are passed over."""
    refusal: str = "Unknown parameter: {}"
    use: str = ""
    """Field that says what a text is for …"""
    document: str = ""
    """… and its values; without one the vector is another."""
    query: str = ""
    use_needed: bool = False
    most: int = 2048
    """Texts of a request."""
    too_many: str = "at most {most} inputs, got {got}"
    status: int = 400
    wrapped: bool = False
    """An error stands in a list, as Gemini's does."""
    own_reply: bool = False
    """Answers as Cohere's own API."""

    def speaks(self, target: str) -> bool:
        """Whether embeddings are asked for at this path with this query."""
        base, _, query = self.base.partition("?")
        return target == base + self.path + (f"?{query}" if query else "")

    def key(self, headers: Mapping[str, str]) -> str:
        """The key of a request, as an Authorization header would carry it."""
        given = headers.get(self.key_header) or ""
        return given if self.key_header == "authorization" else f"Bearer {given}"

    def refuse(self, message: str) -> Refusal:
        """An error reply in this server's form."""
        refusal = Refusal(self.status, message)
        error: object = {"error": {"code": self.status, "message": message, "status": "INVALID_ARGUMENT"}}
        if self.status != 400:
            error = {"detail": message}
        refusal.body = json.dumps([error] if self.wrapped else error).encode()
        return refusal

    def about(self, body: bytes) -> dict[str, Any]:
        """What a request says beside its texts."""
        try:
            given = json.loads(body)
        except ValueError:
            return {}
        return {name: value for name, value in given.items() if name != self.texts} if isinstance(given, dict) else {}

    def read(self, body: bytes) -> tuple[bytes, str]:
        """The request as OpenAI's API has it, and what its texts are for (``document``, ``query`` or "").

        Raises Refusal.
        """
        if self is MANNERS["openai"]:  # which needs no translation
            return body, ""
        try:
            given: Any = json.loads(body)
        except ValueError:
            return body, ""
        if not isinstance(given, dict):
            return body, ""
        for name in self.refused:
            if name in given:
                raise self.refuse(self.refusal.format(name))
        texts = given.get(self.texts)
        if isinstance(texts, list) and len(texts) > self.most:
            raise self.refuse(self.too_many.format(most=self.most, got=len(texts)))
        use = {self.document: "document", self.query: "query"}.get(str(given.get(self.use)), "") if self.use else ""
        if self.use_needed and not use:
            raise self.refuse(f"{self.use} must be provided for this model")
        plain = {"model": given.get("model"), "input": texts}
        if self.dimensions and self.dimensions in given:
            plain["dimensions"] = given[self.dimensions]
        if self.base64 and all(given.get(name) == value for name, value in self.base64.items()):
            plain["encoding_format"] = "base64"
        return json.dumps(plain).encode(), use

    def meant(self, texts: Sequence[str], use: str) -> Sequence[str]:
        """The texts as the model sees them: what they are for makes other vectors."""
        return texts if not self.use or use == "document" else [f"{use or 'nothing'}: {text}" for text in texts]

    def write(self, reply: bytes) -> bytes:
        """A good reply in this server's form."""
        if not self.own_reply:
            return reply
        try:
            plain = json.loads(reply)
            items = plain["data"]
            if sorted(item["index"] for item in items) == list(range(len(items))):  # or the order is all there is
                items.sort(key=lambda item: item["index"])
            vectors = [item["embedding"] for item in items]
        except (ValueError, KeyError):
            return reply
        units = {"input_tokens": plain["usage"]["total_tokens"]} if "usage" in plain else {}
        return json.dumps({"id": "1", "embeddings": {"float": vectors}, "meta": {"billed_units": units}}).encode()


_NONE: Mapping[str, str] = {}

MANNERS: Mapping[str, Manners] = {
    "openai": Manners(),
    "azure": Manners(base="/openai/deployments/new-model?api-version=2024-10-21", key_header="api-key"),
    "gemini": Manners(
        base="/v1beta/openai",
        base64=_NONE,
        refused=("encoding_format",),
        refusal='Invalid JSON payload received. Unknown name "{}": Cannot find field.',
        most=100,
        too_many="* BatchEmbedContentsRequest.requests: at most {most} requests can be in one batch\n",
        wrapped=True,
    ),
    "voyage": Manners(
        dimensions="output_dimension",
        refused=("dimensions", "user"),
        refusal="Argument '{}' is not supported by our API",
        use="input_type",
        document="document",
        query="query",
        most=1000,
        too_many="The batch size limit is {most}. Your batch size is {got}.",
    ),
    "cohere": Manners(
        base="/v2",
        path="/embed",
        texts="texts",
        dimensions="output_dimension",
        base64=_NONE,
        refused=("input", "dimensions", "encoding_format"),
        refusal="invalid request: unknown field {}",
        use="input_type",
        document="search_document",
        query="search_query",
        use_needed=True,
        most=96,
        too_many="invalid request: total number of texts must be at most {most} - received {got}",
        own_reply=True,
    ),
    "jina": Manners(
        base64={"embedding_type": "base64"},
        refused=("encoding_format",),
        refusal="[INPUT] extra fields not permitted: {}",
        use="task",
        document="retrieval.passage",
        query="retrieval.query",
        most=512,
        too_many="[INPUT] Batch size {got} exceeds the maximum of {most}",
        status=422,
    ),
    "mistral": Manners(
        dimensions="output_dimension",
        refused=("dimensions",),
        refusal="Extra inputs are not permitted: {}",
        most=256,
        too_many="Too many inputs in request, split into more batches.",
    ),
    "ollama": Manners(dimensions="", base64=_NONE),
    "vllm": Manners(
        refused=("dimensions",),
        refusal='Model "new-model" does not support matryoshka representation, changing output {} will lead to poor'
        " results.",
    ),
    "tei": Manners(
        dimensions="",
        base64=_NONE,
        most=32,
        too_many="batch size {got} > maximum allowed batch size {most}",
        status=413,
    ),
    "litellm": Manners(
        base64=_NONE,
        refused=("encoding_format",),
        refusal="litellm.UnsupportedParamsError: vertex_ai does not support parameters: {{'{}': 'base64'}}",
    ),
    "bedrock": Manners(
        base="/api/v1",
        dimensions="",
        most=96,
        too_many="An error occurred (ValidationException): texts: expected maximum item count: {most}, found: {got}",
    ),
}
"""By the name that the setting ``provider`` has."""
