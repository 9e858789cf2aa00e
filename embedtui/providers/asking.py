"""What a request for embeddings is made of: address, headers and body, by its provider's manners and its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from embedtui.config import VARIABLE_IN
from embedtui.known import Provider, provider
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.model.migration import USES, for_use
from embedtui.providers.base import Kind, ProviderFault
from embedtui.redaction import remember

Headers = Mapping[str, Mapping[str, str]]
"""By use: names and values."""


def address(base_url: str) -> tuple[str, dict[str, str]]:
    """A base URL without its query, to which a path can be added, and the query."""
    parts = urlsplit(base_url)
    return urlunsplit(parts._replace(query="")), dict(parse_qsl(parts.query, keep_blank_values=True))


def request_headers(model: EmbeddingModel, environ: Mapping[str, str]) -> Headers:
    """The model's own headers with what their variables hold, which is kept out of all that is shown from now on.

    Raises:
        ProviderFault: (CONFIGURATION) a variable is not set, or holds what no header can.
    """
    return {
        use: {name: _filled(model, name, text, environ) for name, text in for_use(model.headers, use).items()}
        for use in USES
    }


def _filled(model: EmbeddingModel, header: str, text: str, environ: Mapping[str, str]) -> str:
    for found in VARIABLE_IN.finditer(text):
        variable = found[1] or found[2]
        value = environ.get(variable, "").strip()
        if not value or not (value.isascii() and value.isprintable()):
            raise ProviderFault(
                FaultClass.CONFIGURATION,
                "missing_key",
                f"No header {header} for {model.name}: the variable {variable} is not set, or holds no plain text.",
                hint=f"Put its value into {variable} (environment or .env).",
            )
        remember(value)
    return VARIABLE_IN.sub(lambda found: environ[found[1] or found[2]].strip(), text)


def request_body(
    model: EmbeddingModel, manners: Provider, texts: Sequence[str], kind: Kind, *, base64: bool
) -> dict[str, Any]:
    """The body of a request; the model's own fields come before the provider's, and an empty one leaves it out."""
    fields: dict[str, Any] = {"model": model.name, manners.texts_field: list(texts)}
    if model.send_dimensions:
        fields[manners.dimensions_field] = model.shape.given
    fields |= manners.document if kind == "document" else manners.query
    if base64:
        fields |= manners.base64
    own = for_use(model.extra_body, kind)
    return {name: value for name, value in (fields | own).items() if not (name in own and value == "")}


def asks_queries_otherwise(model: EmbeddingModel) -> bool:
    """Whether a query is asked for with other fields or headers than a document."""
    manners = provider(model.provider)
    return manners.query != manners.document or any(
        for_use(own, "query") != for_use(own, "document") for own in (model.extra_body, model.headers)
    )


def without_credentials(url: str) -> str:
    """Scheme, host and path of an address: what may be shown of it; empty for none."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/") if url else ""
