"""An embedder over the openai client, for OpenAI and every endpoint that speaks its protocol."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin

import openai

from embedtui.arrays import np
from embedtui.known import Provider, provider
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.asking import Headers, address, request_body, without_credentials
from embedtui.providers.base import BadVectors, EmbedReply, Kind, ProviderFault
from embedtui.providers.http_errors import classify, clean, parse_limits, repeats
from embedtui.providers.replies import Parsed, bad_reply, counted_tokens, most_bytes, parse_reply
from embedtui.providers.transport import TooLate, TooLong, bounded, make_client

NAME_LENGTH = 80
"""Characters of another model's name that are repeated."""
CONNECT_SECONDS = 10.0
"""A connection that takes longer is a dead host."""

_NO_BASE64: set[tuple[str, str]] = set()
"""Endpoints and models that refused the request for base64: each is asked for it once by a process."""

_RAW = {"X-Stainless-Raw-Response": "true"}
"""What ``with_raw_response`` sets: the reply unparsed, with its headers."""


class OpenAIEmbedder:
    """One model at one endpoint; thread-safe, with a connection for each request in flight (the pool holds 1,000).

    The client never retries (it would repeat ``insufficient_quota`` and give up on a long Retry-After); that is the
    pacing's work, where it can be seen.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        *,
        key: str,
        base_url: str,
        timeout: float = 60,
        headers: Headers | None = None,
        key_file: str = "",
    ) -> None:
        """``headers``: further ones, by use; ``key_file``: the ``.env`` that the key is from, empty: none."""
        self._model = model
        self._manners = provider(model.provider)
        self._key, self._key_file = key, key_file
        self._where = without_credentials(base_url)
        self._headers = headers or {}
        base_url, query = address(base_url)
        # packed, a reply is a quarter shorter, and takes a fifth of a core at full speed to unpack
        always: Any = {"Accept-Encoding": "identity"}
        self._each: Any = dict(_RAW)
        if self._manners.key_header:
            always[self._manners.key_header] = key
            self._each["Authorization"] = openai.Omit()
        self._client = openai.OpenAI(
            api_key=key,
            base_url=base_url,
            default_query=query,
            max_retries=0,
            timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            default_headers=always,
            http_client=make_client(),
        )
        self._timeout = timeout

    @property
    def headers(self) -> Any:
        """Further ones of any request but one for embeddings, which has them by itself."""
        own = {name: value for name, value in self._each.items() if name not in _RAW}
        return {**self._headers.get("document", {}), **own}

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    def embed(self, texts: Sequence[str], *, kind: Kind, stop: threading.Event | None = None) -> EmbedReply:
        """Embed ``texts`` in one request, identical ones sent once; raises ProviderFault."""
        prefix = self._model.document_prefix if kind == "document" else self._model.query_prefix
        positions: dict[str, int] = {}
        order = [positions.setdefault(prefix + text, len(positions)) for text in texts]
        if not order:
            return EmbedReply(np.empty((0, self._model.dimensions), np.float32), 0, None, 0.0)
        distinct = list(positions)
        try:
            reply = self._request(distinct, kind, stop)
        except BadVectors as fault:
            bad = tuple(place for place, position in enumerate(order) if position in fault.bad)
            raise BadVectors(replace(fault.reply, vectors=fault.reply.vectors[order]), bad) from None
        return reply if len(distinct) == len(order) else replace(reply, vectors=reply.vectors[order])

    def _request(self, texts: list[str], kind: Kind, stop: threading.Event | None) -> EmbedReply:
        began = time.monotonic()
        refuser = (self._where, self._model.name)
        asked_base64 = bool(self._manners.base64) and refuser not in _NO_BASE64
        body = request_body(self._model, self._manners, texts, kind, base64=asked_base64)
        options: Any = {"headers": {**self._headers.get(kind, {}), **self._each}}
        try:
            # not embeddings.create: that cannot leave encoding_format out, which some endpoints reject
            most = most_bytes(len(texts), self._model.dimensions)
            with self.asking(most, stop, texts=texts) as client:
                raw: Any = client.post(self._manners.path, cast_to=object, body=body, options=options)
        except ProviderFault as fault:
            if asked_base64 and _names_encoding(fault.__cause__, self._manners):
                _NO_BASE64.add(refuser)
                return self._request(texts, kind, stop)
            raise
        try:
            parsed = parse_reply(raw.content, len(texts), self._model, self._key)
        except ProviderFault as fault:
            if repeats(fault.reason, texts):
                raise bad_reply("it is none to this request (its words repeat a text).") from None
            raise
        tokens = counted_tokens(parsed.usage, texts)
        reply = EmbedReply(
            parsed.vectors,
            # four characters a token is OpenAI's rule of thumb for English
            sum(len(text) // 4 + 1 for text in texts) if tokens is None else tokens,
            parse_limits(raw.headers),
            time.monotonic() - began,
            measured=tokens is not None,
            remarks=self._remarks(parsed, tokens),
        )
        if parsed.bad:
            raise BadVectors(reply, parsed.bad)
        return reply

    @contextmanager
    def asking(
        self, most: int, stop: threading.Event | None, *, seconds: float | None = None, texts: Sequence[str] = ()
    ) -> Iterator[openai.OpenAI]:
        """The client, for one request that ends within ``seconds`` (None: the model's) and ``most`` bytes.

        Raises:
            ProviderFault: the request failed.
        """
        seconds = seconds or self._timeout
        try:
            with bounded(seconds, most, stop):
                yield self._client
        except TooLate:
            why = "work was stopped" if stop is not None and stop.is_set() else f"{seconds:g} s"
            raise self._unreachable("timeout", f"No whole reply from {self._where} within {why}.") from None
        except TooLong as error:
            raise bad_reply(str(error)) from None
        except openai.APITimeoutError as error:
            raise self._unreachable("timeout", f"No reply from {self._where} within {seconds:g} s.") from error
        except openai.APIConnectionError as error:
            raise self._lost(error) from error
        except openai.APIStatusError as error:
            raise self._failed(error, texts) from error
        except openai.OpenAIError as error:
            raise self._unreachable("bad_reply", "Broken reply: it cannot be read.") from error

    def _remarks(self, parsed: Parsed, tokens: int | None) -> tuple[str, ...]:
        wanted, found = (name.lower().rpartition("/")[2] for name in (self._model.name, parsed.model))
        remarks = []
        if found and found != wanted:
            # a deployment, an alias or a gateway may well answer so: no reason to stop
            name = clean(parsed.model, self._key)[:NAME_LENGTH]
            remarks.append(f"{self._where} answers as {name} where {self._model.name} was asked for.")
        if parsed.usage is not None and tokens is None:
            remarks.append(f"{self._where} counts tokens that these texts cannot have; they are estimated instead.")
        return tuple(remarks)

    def _failed(self, error: openai.APIStatusError, texts: Sequence[str]) -> ProviderFault:
        if 300 <= error.status_code < 400:
            return self._redirected(error)
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
            key_file=self._key_file,
        )

    def _redirected(self, error: openai.APIStatusError) -> ProviderFault:
        try:
            there = without_credentials(urljoin(str(error.request.url), error.response.headers.get("location", "")))
        except ValueError:
            there = "a place that is no URL"
        reason = f"{error.status_code}: {self._where} sends requests on to {there}; no text was sent there."
        hint = "If that is the right place, make it the model's base URL (without /embeddings)."
        return ProviderFault(FaultClass.CONFIGURATION, str(error.status_code), clean(reason, self._key), hint=hint)

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


def _names_encoding(error: BaseException | None, manners: Provider) -> bool:
    if not isinstance(error, openai.APIStatusError) or error.status_code not in (400, 422):
        return False
    return any(name in (error.param or "") or name in str(error) for name in manners.base64)
