"""Batch jobs as OpenAI has them: what a job's state, its file's lines and their answers say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from embedtui.known import provider
from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.asking import request_body
from embedtui.providers.base import ProviderFault

JOB_INPUTS = 50_000
"""Inputs of all lines of a job together; a line may hold several. (OpenAI, API reference of POST /batches, checked in
November 2026 in the client's own documentation: "restricted to a maximum of 50,000 embedding inputs across all requests
in the batch"; a file has at most 200 MB.)"""
JOB_BYTES = 190_000_000
"""Of a job's file: 200 MB less a margin for how they are counted."""
UNANSWERED = frozenset({"batch_expired", "batch_cancelled"})
"""Codes of lines that were never worked on, nor charged for."""
_CODE = re.compile(r"[a-z][a-z0-9_]{0,59}")


@dataclass(frozen=True, slots=True)
class BatchState:
    """A job as the provider has it."""

    id: str
    status: str
    """``validating``, ``in_progress``, ``finalizing``, ``completed``, ``failed``, ``expired``, ``cancelling``,
    ``cancelled``."""
    token: str
    """Of its metadata; empty where it carries none."""
    input_file: str
    output_file: str
    error_file: str
    finished: int
    """Lines answered, well or not."""
    code: str
    """Why it failed, in the provider's word for it; never its message, which may quote a text."""
    limit: int | None
    """Tokens that may be enqueued, as the message of a failure says."""


@dataclass(frozen=True, slots=True)
class OutputLine:
    """What became of a line of a job."""

    number: int
    payload: dict[str, Any] | None
    """Body of a good answer; None: there is none."""
    answered: bool
    """The provider worked on it; else it is as if it had not been asked."""


def batch_line(token: str, number: int, model: EmbeddingModel, texts: Sequence[str]) -> bytes:
    """One line of a job's file."""
    prefix = model.document_prefix
    manners = provider(model.provider)
    texts = [prefix + text for text in texts]
    body = request_body(model, manners, texts, "document", base64=bool(manners.base64))
    line = {"custom_id": f"{token}-{number}", "method": "POST", "url": "/v1/embeddings", "body": body}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def cut_lines(pieces: Iterable[bytes], longest: int) -> Iterator[bytes]:
    """The lines of a file that comes in pieces; of one that is longer than ``longest``, nothing but an empty line."""
    kept = bytearray()
    skipping = False
    for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for part in whole:
            kept += part if not skipping else b""
            yield b"" if skipping or len(kept) > longest else bytes(kept)
            kept.clear()
            skipping = False
        kept += rest if not skipping else b""
        if len(kept) > longest:
            kept.clear()
            skipping = True
    if kept:
        yield bytes(kept)


def parse_line(line: bytes, token: str) -> OutputLine | None:
    """What a line of an output or error file says; None: it is broken, or of another job."""
    try:
        found = json.loads(line)
        head, _, number = found["custom_id"].rpartition("-")
        if head != token or not number.isascii() or not number.isdigit() or len(number) > 9:
            return None
        response, error = found.get("response"), found.get("error")
        if not isinstance(response, dict):
            code = word_of(error.get("code")) if isinstance(error, dict) else ""
            return OutputLine(int(number), None, bool(code) and code not in UNANSWERED)
        status, body = response.get("status_code", 200), response.get("body")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    if status == 200 and isinstance(body, dict):
        return OutputLine(int(number), body, True)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 425, 429)
    return OutputLine(int(number), None, refused)


def word_of(value: object) -> str:
    """A provider's own word for something; empty where it is none: a message may quote a text."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""


def no_batches(fault: ProviderFault) -> ProviderFault:
    """What a refusal of files and jobs as such means: to be answered by a setting."""
    if fault.fault_class is FaultClass.PROVIDER or fault.code in ("401", "insufficient_quota", "tls"):
        return fault
    return ProviderFault(
        FaultClass.CONFIGURATION,
        fault.code,
        f"The provider takes no batch job: {fault.reason}",
        hint="Set new_model.batch = false (`embedtui run --no-batch`) to go on at the live endpoint and its price.",
    )
