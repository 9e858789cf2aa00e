"""Batch jobs at a provider that speaks OpenAI's API: files up, jobs made and found again, answers line by line."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import IO, Any

import openai

from embedtui.model import EmbeddingModel, FaultClass
from embedtui.providers.base import ProviderFault
from embedtui.providers.batches import BatchState, OutputLine, cut_lines, parse_line, word_of
from embedtui.providers.openai_client import OpenAIEmbedder
from embedtui.providers.replies import most_bytes

TRANSFER_SECONDS = 3600.0
"""For a file up or down; what is stored by then is not read again."""
LISTED = 100
"""Jobs of a page of the list (OpenAI's most)."""
PAGES = 20
"""Of the list, newest first, that are looked through for a job of ours."""
MARK = "embedtui"
"""Key of a job's metadata under which its token stands."""
_ID = re.compile(r"[\w.:/-]{1,200}", re.ASCII)
_LIMIT = re.compile(r"limit:?\s*([\d,]{3,})", re.IGNORECASE)


class OpenAIBatches:
    """Jobs at one endpoint; every method raises ProviderFault. For one thread at a time."""

    def __init__(self, embedder: OpenAIEmbedder, model: EmbeddingModel) -> None:
        self._embedder, self._model = embedder, model

    def close(self) -> None:
        """Close idle connections."""
        self._embedder.close()

    def upload(self, file: IO[bytes], token: str, stop: threading.Event) -> str:
        """Id of the file at the provider."""
        file.seek(0)
        with self._embedder.asking(1 << 20, stop, seconds=TRANSFER_SECONDS) as client:
            made = client.files.create(
                file=(f"embedtui-{token}.jsonl", file, "application/jsonl"),
                purpose="batch",
                extra_headers=self._embedder.headers,
            )
        return _named(made.id)

    def create(self, file: str, token: str, about: dict[str, str], stop: threading.Event) -> BatchState:
        """Make a job of an uploaded file; its metadata says ``about`` and the token by which it is found again."""
        metadata = {MARK: token, **{name: value[:500] for name, value in about.items()}}
        with self._embedder.asking(1 << 20, stop) as client:
            return _state(
                client.batches.create(
                    input_file_id=file,
                    endpoint="/v1/embeddings",
                    completion_window="24h",
                    metadata=metadata,
                    extra_headers=self._embedder.headers,
                )
            )

    def find(self, token: str, stop: threading.Event) -> BatchState | None:
        """The job with this token, among the newest; None: there is none."""
        after: Any = openai.NOT_GIVEN
        for _ in range(PAGES):
            with self._embedder.asking(16 << 20, stop) as client:
                page = client.batches.list(limit=LISTED, after=after, extra_headers=self._embedder.headers)
            for each in page.data:
                if (each.metadata or {}).get(MARK) == token:
                    return _state(each)
            if not page.data or not getattr(page, "has_more", len(page.data) >= LISTED):
                return None
            after = page.data[-1].id
        return None

    def retrieve(self, batch: str, stop: threading.Event) -> BatchState:
        """A job as it is now."""
        _require_id(batch)
        with self._embedder.asking(1 << 20, stop) as client:
            return _state(client.batches.retrieve(batch, extra_headers=self._embedder.headers))

    def cancel(self, batch: str, stop: threading.Event) -> BatchState:
        """Ask for a job to be ended; what is answered by then is charged for, and can be fetched."""
        _require_id(batch)
        with self._embedder.asking(1 << 20, stop) as client:
            return _state(client.batches.cancel(batch, extra_headers=self._embedder.headers))

    def delete_file(self, file: str, stop: threading.Event) -> None:
        """Take a file away from the provider: it holds texts or vectors that nobody needs there any more."""
        with self._embedder.asking(1 << 20, stop) as client:
            client.files.delete(file, extra_headers=self._embedder.headers)

    def read(self, file: str, token: str, inputs: int, stop: threading.Event) -> Iterator[OutputLine | None]:
        """The lines of an output or error file, one at a time; None for one that is none of this job's, or broken.

        ``inputs``: of a line at most, which bounds the memory that it takes.
        """
        longest = most_bytes(inputs, self._model.dimensions)
        with (
            self._embedder.asking(1 << 44, stop, seconds=TRANSFER_SECONDS) as client,
            client.files.with_streaming_response.content(file, extra_headers=self._embedder.headers) as response,
        ):
            for line in cut_lines(response.iter_bytes(1 << 16), longest):
                yield parse_line(line, token)


def _state(batch: Any) -> BatchState:
    counts = getattr(batch, "request_counts", None)
    errors = getattr(getattr(batch, "errors", None), "data", None) or []
    code = next((word for each in errors if (word := word_of(getattr(each, "code", None)))), "")
    told = [_LIMIT.search(str(getattr(each, "message", "") or "")) for each in errors] if "limit" in code else []
    limit = next((int(each[1].replace(",", "")) for each in told if each and each[1].strip(",")), None)
    return BatchState(
        id=_named(getattr(batch, "id", None)),
        status=word_of(getattr(batch, "status", None)) or "unknown",
        token=str((getattr(batch, "metadata", None) or {}).get(MARK, "")),
        input_file=str(getattr(batch, "input_file_id", None) or ""),
        output_file=str(getattr(batch, "output_file_id", None) or ""),
        error_file=str(getattr(batch, "error_file_id", None) or ""),
        finished=_count(getattr(counts, "completed", 0)) + _count(getattr(counts, "failed", 0)),
        code=code,
        limit=limit,
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else 0


def _is_id(value: object) -> bool:
    """It is part of an address: none that leads somewhere else."""
    return isinstance(value, str) and bool(_ID.fullmatch(value)) and not {"", ".", ".."} & set(value.split("/"))


def _require_id(batch: str) -> None:
    if not _is_id(batch):  # as the database has it, where other roles write as well
        raise ProviderFault(FaultClass.PROVIDER, "404", "No job has such a name.")


def _named(value: object) -> str:
    if not isinstance(value, str) or not _is_id(value):
        raise ProviderFault(FaultClass.PROVIDER, "bad_reply", "Broken reply: a file or job without a name.")
    return value
