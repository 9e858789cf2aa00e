"""An embedder over the openai client, for OpenAI and every endpoint that speaks its protocol."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import openai

from embedtui.arrays import np
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.base import BAD_VECTOR, EmbedReply, Kind, ProviderFault
from embedtui.providers.faults import ROW_HINT, classify, clean, parse_limits
from embedtui.providers.replies import parse_reply

CONNECT_SECONDS = 10.0
"""A connection that takes longer is a dead host."""

INNOCENT = "The quick brown fox jumps over the lazy dog."
"""Asked for when a single text failed in a way that may be the provider's: any model embeds it."""

_RAW = {"X-Stainless-Raw-Response": "true"}
"""What ``with_raw_response`` sets: the reply unparsed, with its headers."""


class OpenAIEmbedder:
    """One model at one endpoint; thread-safe, with a connection for each request in flight (the pool holds 1,000).

    The client never retries (it would repeat ``insufficient_quota`` and give up on a long Retry-After); that is the
    pacing's work, where it can be seen.
    """

    def __init__(self, model: EmbeddingModel, *, key: str, base_url: str, timeout: float = 60) -> None:
        self._model = model
        self._key = key
        self._where = _without_credentials(base_url)
        self._base64 = True
        self._client = openai.OpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=0,
            timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        )
        self._timeout = timeout

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def embed(self, texts: Sequence[str], *, kind: Kind) -> EmbedReply:
        """Embed ``texts`` in one request, identical ones sent once; raises ProviderFault."""
        prefix = self._model.document_prefix if kind == "document" else self._model.query_prefix
        positions: dict[str, int] = {}
        order = [positions.setdefault(prefix + text, len(positions)) for text in texts]
        if not order:
            return EmbedReply(np.empty((0, self._model.dimensions), np.float32), 0, None, 0.0)
        distinct = list(positions)
        try:
            reply = self._request(distinct)
        except ProviderFault as fault:
            if len(distinct) == 1 and fault.code in (BAD_VECTOR, "400", "413", "422"):
                raise self._blame(fault) from None
            raise
        if len(distinct) == len(order):
            return reply
        return EmbedReply(reply.vectors[order], reply.tokens, reply.limits, reply.seconds, reply.measured)

    def _blame(self, fault: ProviderFault) -> ProviderFault:
        """A single text's unclear fault is the text's only if an innocent text is embedded well at the same time."""
        if fault.fault_class is FaultClass.ROW:
            return fault
        try:
            self._request([INNOCENT])
        except ProviderFault as other:
            # anything but the same fault (a 429, an outage) leaves the question open: ask again later
            return fault if other.code == fault.code else other
        return ProviderFault(FaultClass.ROW, fault.code, fault.reason, hint=ROW_HINT, limits=fault.limits)

    def _request(self, texts: list[str]) -> EmbedReply:
        began = time.monotonic()
        body: dict[str, Any] = {"model": self._model.name, "input": texts}
        if self._model.send_dimensions:
            body["dimensions"] = self._model.dimensions
        asked_base64 = self._base64
        if asked_base64:
            body["encoding_format"] = "base64"
        try:
            # not embeddings.create: that cannot leave encoding_format out, which some endpoints reject
            raw: Any = self._client.post("/embeddings", cast_to=object, body=body, options={"headers": _RAW})
        except openai.APITimeoutError as error:
            raise self._unreachable("timeout", f"No reply from {self._where} within {self._timeout:g} s.") from error
        except openai.APIConnectionError as error:
            raise self._lost(error) from error
        except openai.APIStatusError as error:
            if asked_base64 and error.status_code in (400, 422) and _names_encoding(error):
                self._base64 = False
                return self._request(texts)
            raise self._failed(error, len(texts)) from error
        except openai.OpenAIError as error:
            raise self._unreachable("bad_reply", f"Broken reply: {clean(str(error), self._key)}") from error
        vectors, tokens = parse_reply(raw.content, len(texts), self._model, self._key)
        seconds = time.monotonic() - began
        limits = parse_limits(raw.headers)
        if tokens is None:
            # four characters a token is OpenAI's rule of thumb for English
            return EmbedReply(vectors, sum(len(text) // 4 + 1 for text in texts), limits, seconds, measured=False)
        return EmbedReply(vectors, tokens, limits, seconds)

    def _failed(self, error: openai.APIStatusError, texts: int) -> ProviderFault:
        message = error.body.get("message") if isinstance(error.body, Mapping) else error.body
        return classify(
            error.status_code,
            message if isinstance(message, str) else error.response.text,
            error_code=error.code,
            error_type=error.type,
            param=error.param,
            headers=error.response.headers,
            texts=texts,
            model=self._model,
            secret=self._key,
        )

    def _lost(self, error: openai.APIConnectionError) -> ProviderFault:
        cause: BaseException | None = error
        deepest = error.__class__.__name__
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return ProviderFault(
                    FaultClass.CONFIGURATION,
                    "tls",
                    clean(f"The certificate of {self._where} is not trusted: {cause.verify_message}", self._key),
                    hint="Check the base URL, or add the certificate authority (SSL_CERT_FILE).",
                )
            deepest = str(cause) or cause.__class__.__name__
            cause = cause.__cause__ or cause.__context__
        return self._unreachable("connection", f"No connection to {self._where}: {deepest}")

    def _unreachable(self, code: str, reason: str) -> ProviderFault:
        hint = "Wait: it is tried again by itself. If it never worked, check the base URL."
        return ProviderFault(FaultClass.PROVIDER, code, clean(reason, self._key), hint=hint)


def _names_encoding(error: openai.APIStatusError) -> bool:
    return "encoding_format" in (error.param or "") or "encoding_format" in str(error)


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")
