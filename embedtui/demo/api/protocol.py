"""The embeddings protocol as OpenAI speaks it: requests read, replies and refusals written, spoiled where told to."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedtui.demo.api.faults import Fault, FaultKind

MAX_INPUTS = 2048
"""Inputs per request (OpenAI's limit)."""
MAX_TOKENS = 300_000
"""Tokens per request, all inputs together (OpenAI's limit)."""
MAX_INPUT_TOKENS = 8192
"""Tokens of one input (OpenAI's limit)."""
DEFAULT_KEY = "sk-loopback"
"""The key a server wants unless it is given another."""


FIREWALL_PAGE = (
    b"<html><head><title>403 Forbidden</title></head><body><h1>Request blocked</h1>"
    b"<p>A security rule (942100) was triggered. Reference 18.2d4f.</p></body></html>"
)


class Refusal(Exception):
    """An error reply in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.body = json.dumps({"error": error}).encode()


@dataclass(frozen=True, slots=True)
class Request:
    """A request for embeddings, as read."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None
    base64: bool
    names_encoding: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with 200, whole or cut."""

    body: bytes
    headers: Mapping[str, str]
    cut: str = ""
    """"" (whole), ``half`` (half of the body), ``close`` (nothing) or ``reset`` (nothing, RST)."""
    raw: Iterable[bytes | float] | None = None
    """Sent as it is, instead of all else."""


def parse(body: bytes) -> Request:
    """The request that a body holds; raises Refusal as OpenAI would."""
    try:
        payload = json.loads(body)
    except ValueError as error:
        raise Refusal(400, "We could not parse the JSON body of your request.") from error
    if not isinstance(payload, dict):
        raise Refusal(400, "The JSON body must be an object.")
    model, texts, dimensions = payload.get("model"), payload.get("input"), payload.get("dimensions")
    encoding = payload.get("encoding_format", "float")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "you must provide a model parameter")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Refusal(400, "'$.input' is invalid. Please check the API reference.", param="input")
    if len(texts) > MAX_INPUTS:
        raise Refusal(
            400,
            f"Invalid 'input': array too long. Expected an array with maximum length {MAX_INPUTS}, "
            f"but got an array with length {len(texts)} instead.",
            param="input",
            code="array_above_max_length",
        )
    if "" in texts:
        raise Refusal(400, f"Invalid 'input[{texts.index('')}]': input cannot be an empty string.", param="input")
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        raise Refusal(400, "Invalid 'dimensions': expected a positive integer.", param="dimensions")
    if encoding not in ("float", "base64"):
        raise Refusal(400, f"Invalid value: '{encoding}'.", param="encoding_format")
    return Request(model, tuple(texts), dimensions, encoding == "base64", "encoding_format" in payload)


def render(vectors: np.ndarray, request: Request, tokens: int, fault: Fault | None) -> bytes:
    """The body of a 200 for vectors (n, d) little-endian float32, spoiled as ``fault`` says."""
    kind = None if fault is None else fault.kind
    if kind is FaultKind.NOT_JSON:
        return b"<html><body><h1>Welcome to the gateway</h1></body></html>"
    if kind in (FaultKind.NAN, FaultKind.ZERO):
        vectors = vectors.copy()  # the array may be the model's own
        aimed = fault is not None and (fault.predicate is not None or fault.containing is not None)
        places = fault.met(request.texts) if fault is not None and aimed else [0]
        vectors[places, : 1 if kind is FaultKind.NAN else None] = np.nan if kind is FaultKind.NAN else 0
    elif kind is FaultKind.WRONG_DIMENSIONS:
        vectors = np.ascontiguousarray(vectors[:, :-1])
    if request.base64 and kind is not FaultKind.FLOATS:
        encoded = ['"' + base64.b64encode(row).decode() + '"' for row in vectors]
    else:
        encoded = [json.dumps(row) for row in vectors.tolist()]
    items = list(enumerate(encoded))
    if kind is FaultKind.NO_DATA:
        items = []
    elif kind is FaultKind.FEWER:
        items = items[:-1]
    elif kind is FaultKind.SHUFFLED:
        random.Random(len(items)).shuffle(items)
    elif kind is FaultKind.DUPLICATE_INDEX:
        items[-1:] = [(0, items[-1][1])] if len(items) > 1 else [items[0], items[0]]
    data = ",".join(f'{{"object":"embedding","index":{index},"embedding":{value}}}' for index, value in items)
    usage = "" if kind is FaultKind.NO_USAGE else f',"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}'
    return f'{{"object":"list","data":[{data}],"model":{json.dumps(request.model)}{usage}}}'.encode()


def no_model(model: str) -> Refusal:
    """There is no such model."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return Refusal(404, message, code="model_not_found")


def bad_key(given: str) -> Refusal:
    """The key is wrong."""
    # OpenAI repeats the key with its middle starred out; a compatible gateway may well repeat it whole
    message = f"Incorrect API key provided: {given}. You can find your API key in your account settings."
    return Refusal(401, message, code="invalid_api_key")


def check_limits(counts: Sequence[int]) -> None:
    """Raise the refusal of a request whose texts have too many tokens, one by one or together."""
    for position, count in enumerate(counts):
        if count > MAX_INPUT_TOKENS:
            raise Refusal(400, f"Invalid 'input[{position}]': maximum input length is {MAX_INPUT_TOKENS} tokens.")
    if sum(counts) > MAX_TOKENS:
        raise Refusal(
            400,
            f"Requested {sum(counts)} tokens, max {MAX_TOKENS} tokens per request",
            kind="max_tokens_per_request",
            code="max_tokens_per_request",
        )


def refuse(fault: Fault, model: str, key: str) -> None:
    """Raise the refusal that a fault stands for; returns for the faults that come later."""
    headers = {} if fault.retry_after is None else {"retry-after": fault.retry_after}
    match fault.kind:
        case FaultKind.UNAUTHORIZED:
            raise bad_key(key)
        case FaultKind.FORBIDDEN:
            raise Refusal(fault.status or 403, f"Project does not have access to model {model}", code="forbidden")
        case FaultKind.MODEL_NOT_FOUND:
            raise no_model(model)
        case FaultKind.RETIRED:
            raise Refusal(
                fault.status or 404,
                f"The model `{model}` has been shut down and is no longer available.",
                code="model_not_found",
            )
        case FaultKind.RATE_LIMITED:
            raise Refusal(429, "Rate limit reached.", kind="requests", code="rate_limit_exceeded", headers=headers)
        case FaultKind.INSUFFICIENT_QUOTA:
            raise Refusal(
                429,
                "You exceeded your current quota, please check your plan and billing details.",
                kind="insufficient_quota",
                code="insufficient_quota",
                headers=headers,
            )
        case FaultKind.SERVER_ERROR:
            raise Refusal(
                fault.status or 500,
                "The server had an error while processing your request. Sorry about that!",
                kind="server_error",
                headers=headers,
            )
        case FaultKind.UNAVAILABLE:
            raise Refusal(
                fault.status or 503,
                "The engine is currently overloaded, please try again later.",
                kind="server_error",
                headers=headers,
            )
        case FaultKind.NO_BASE64:
            raise Refusal(400, "Unknown name 'encoding_format': Cannot find field.", param="encoding_format")
        case FaultKind.NO_DIMENSIONS:
            raise Refusal(400, "This model does not support specifying dimensions.", param="dimensions")
        case FaultKind.BAD_REQUEST:
            raise Refusal(fault.status or 400, "Bad Request")
        case FaultKind.FIREWALL:
            page = Refusal(fault.status or 403, "Forbidden")
            page.body = FIREWALL_PAGE
            raise page
        case FaultKind.REJECTED:
            raise Refusal(fault.status or 400, "The input was rejected by the content policy.", param="input")
        case _:
            pass
