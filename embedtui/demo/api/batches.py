"""The batch side of the loopback API: /files and /batches as OpenAI speaks them, with faults on demand."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from embedtui.demo.api.protocol import Refusal, Reply, check_limits, no_model, parse, refuse, render

if TYPE_CHECKING:
    from embedtui.demo.api.server import LoopbackServer

MAX_JOB_INPUTS = 50_000
"""Inputs of all lines together (OpenAI's limit)."""
MAX_JOB_BYTES = 200 << 20
"""Bytes of an input file (OpenAI's limit)."""
FINAL = ("completed", "failed", "expired", "cancelled")
_CHECKS = {
    "duplicate_custom_id": "The custom_id of a line is used twice.",
    "invalid_json_line": "A line is not parseable as valid JSON.",
}

SpoilLines = Callable[[list[bytes]], Sequence[bytes]]
"""Lines of a good output file -> the lines that it has instead."""


@dataclass(frozen=True, slots=True)
class Order:
    """What becomes of a job."""

    end: str = "completed"
    """``completed``, ``expired``, ``cancelled``, ``failed``, or ``stuck``: it never ends by itself."""
    share: float = 1.0
    """Of the lines, so many are answered and charged for."""
    code: str = "internal_error"
    """Of the error of a job that fails."""
    spoil: SpoilLines | None = None
    vanish: bool = False
    """The output file is gone when it is asked for."""
    forget: bool = False
    """The job itself is not known any more."""


@dataclass(slots=True)
class _Job:
    id: str
    file: str
    metadata: Mapping[str, str]
    created: float
    order: Order
    status: str = "validating"
    lines: int = 0
    done: int = 0
    failed: int = 0
    tokens: int = 0
    """Enqueued."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    output: str | None = None
    error: str | None = None
    cancelling: bool = False


class Batches:
    """Files and jobs; thread-safe. May be set while it runs: ``seconds``, ``enqueued_limit``, ``orders``."""

    def __init__(self, api: LoopbackServer) -> None:
        self._api = api
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self.seconds = 0.0
        """From a job's creation to its end."""
        self.enqueued_limit: int | None = None
        """Tokens of all jobs under way."""
        self.orders: deque[Order] = deque()
        """For the next jobs that are made; none: all goes well."""
        self.failures: deque[tuple[str, int]] = deque()
        """(``POST /v1/batches``, status): the next such request is answered so; 0: done, but the reply is lost."""
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, _Job] = {}
        self.requests = 0
        """Received, whatever became of them."""
        self.refused = 0
        """Jobs that failed their validation."""
        self.inputs = self.tokens = 0
        """Charged for."""
        self.texts: deque[str] = deque(maxlen=1_000_000)
        """Charged for, oldest first."""

    def answer(self, method: str, target: str, content_type: str, body: bytes) -> Reply:
        """Answer one request; raises Refusal for an error reply."""
        with self._lock:
            self.requests += 1
            path = urlsplit(target).path
            lost = False
            if self.failures and self.failures[0][0] == f"{method} {path}":
                status = self.failures.popleft()[1]
                if status:
                    raise Refusal(status, "The server had an error while processing your request.", kind="server_error")
                lost = True
            found = self._route(method, path, parse_qs(urlsplit(target).query), content_type, body)
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            return Reply(content, {}, cut="reset" if lost else "")

    def _route(
        self, method: str, path: str, query: Mapping[str, list[str]], content_type: str, body: bytes
    ) -> dict[str, Any] | bytes:
        _, _, kind, *rest = path.split("/")
        match method, kind, rest:
            case "POST", "files", []:
                return self._upload(content_type, body)
            case "GET", "files", [name, "content"]:
                return self._file(name)
            case "GET", "files", [name]:
                return self._file_data(name)
            case "DELETE", "files", [name]:
                self._file(name)
                del self.files[name]
                return {"id": name, "object": "file", "deleted": True}
            case "POST", "batches", []:
                return self._shown(self._create(json.loads(body)))
            case "GET", "batches", []:
                return self._listed(query)
            case "GET", "batches", [name]:
                return self._shown(self._job(name))
            case "POST", "batches", [name, "cancel"]:
                job = self._job(name)
                if job.status in FINAL:
                    raise Refusal(409, f"Cannot cancel a batch with status '{job.status}'.")
                job.cancelling = True
                self._advance(job)
                return self._shown(job)
        raise Refusal(404, f"Invalid URL ({method} {path})")

    # --------------------------------------------------------------------------------------------------- files

    def _upload(self, content_type: str, body: bytes) -> dict[str, Any]:
        boundary = re.search(r'boundary="?([^";]+)', content_type)
        if boundary is None:
            raise Refusal(400, "'file' is a required property")
        parts = body.split(b"--" + boundary[1].encode())
        content = next((part for part in parts if b'name="file"' in part[:400]), None)
        if content is None or not any(b'name="purpose"' in part[:400] and b"batch" in part for part in parts):
            raise Refusal(400, "'file' and 'purpose' are required properties")
        return self._file_data(self._keep(content.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")))

    def _keep(self, content: bytes) -> str:
        name = f"file-{next(self._numbers)}"
        self.files[name] = content
        return name

    def _file(self, name: str) -> bytes:
        if name not in self.files:
            raise Refusal(404, f"No such File object: {name}", code="not_found")
        return self.files[name]

    def _file_data(self, name: str) -> dict[str, Any]:
        size = len(self._file(name))
        return {"id": name, "object": "file", "bytes": size, "purpose": "batch", "filename": f"{name}.jsonl"}

    # ---------------------------------------------------------------------------------------------------- jobs

    def _create(self, order: Mapping[str, Any]) -> _Job:
        if order.get("endpoint") != "/v1/embeddings" or order.get("completion_window") != "24h":
            raise Refusal(400, "Invalid endpoint or completion window.")
        self._file(str(order.get("input_file_id")))
        fate = self.orders.popleft() if self.orders else Order()
        name = f"batch_{next(self._numbers)}"
        job = _Job(name, str(order["input_file_id"]), order.get("metadata") or {}, time.monotonic(), fate)
        self.jobs[name] = job
        self._validate(job)
        return job

    def _job(self, name: str) -> _Job:
        job = self.jobs.get(name)
        if job is None or job.order.forget:
            raise Refusal(404, f"No batch found with id '{name}'.", code="not_found")
        self._advance(job)
        return job

    def _listed(self, query: Mapping[str, list[str]]) -> dict[str, Any]:
        names = [name for name, job in reversed(self.jobs.items()) if not job.order.forget]
        after, most = query.get("after", [""])[0], int(query.get("limit", ["20"])[0])
        names = names[names.index(after) + 1 :] if after in names else names
        data = [self._shown(self._job(name)) for name in names[:most]]
        return {"object": "list", "data": data, "has_more": len(names) > most}

    def _lines(self, job: _Job) -> Iterator[dict[str, Any]]:
        for line in self.files.get(job.file, b"").splitlines():
            if line.strip():
                yield json.loads(line)

    def _validate(self, job: _Job) -> None:
        seen: set[str] = set()
        inputs, code = 0, ""
        try:
            for line in self._lines(job):
                job.lines += 1
                texts = line["body"]["input"]
                inputs += len(texts)
                job.tokens += sum(map(self._api.count_tokens, texts))
                code = code or ("duplicate_custom_id" if line["custom_id"] in seen else "")
                seen.add(line["custom_id"])
        except (ValueError, KeyError, TypeError):
            code = "invalid_json_line"
        enqueued = sum(each.tokens for each in self.jobs.values() if each.status not in FINAL)
        message = _CHECKS.get(code, "")
        if inputs > MAX_JOB_INPUTS or len(self.files[job.file]) > MAX_JOB_BYTES:
            code, message = "maximum_inputs_exceeded", f"A batch has at most {MAX_JOB_INPUTS} inputs."
        elif self.enqueued_limit is not None and enqueued > self.enqueued_limit:
            code = "token_limit_exceeded"
            message = f"Enqueued token limit reached. Limit: {self.enqueued_limit:,} enqueued tokens."
        elif job.order.end == "failed":
            code, message = job.order.code, "The batch failed."
        if code:
            self.refused += 1
            job.status, job.errors = "failed", [{"code": code, "message": message, "line": None, "param": None}]

    def _advance(self, job: _Job) -> None:
        if job.status in FINAL:
            return
        age = time.monotonic() - job.created
        if not job.cancelling and (age < self.seconds or job.order.end == "stuck"):
            job.status = "in_progress"
            job.done = int(job.lines * min(0.99, age / max(self.seconds, 1e-9)))
            return
        end = "cancelled" if job.cancelling else job.order.end
        share = min(job.order.share, age / self.seconds if self.seconds and job.cancelling else 1.0)
        self._finish(job, end, int(job.lines * share))

    def _finish(self, job: _Job, end: str, answered: int) -> None:
        good: list[bytes] = []
        bad: list[bytes] = []
        for number, line in enumerate(self._lines(job)):
            if number >= answered:
                error = {"code": f"batch_{end}", "message": f"This request was not executed: the batch {end}."}
                bad.append(_line(number, line, None, error))
                continue
            try:
                good.append(_line(number, line, {"status_code": 200, "body": json.loads(self._embed(line["body"]))}))
            except Refusal as refusal:
                body = (
                    json.loads(refusal.body) if refusal.body.startswith(b"{") else {"error": {"message": str(refusal)}}
                )
                response = {"status_code": refusal.status, "body": body}
                bad.append(_line(number, line, response))
        job.status, job.done, job.failed = end, len(good), len(bad)
        if job.order.spoil is not None:
            good = list(job.order.spoil(good))
        if good:
            job.output = "file-gone" if job.order.vanish else self._keep(b"".join(line + b"\n" for line in good))
        if bad:
            job.error = self._keep(b"".join(line + b"\n" for line in bad))

    def _embed(self, body: Mapping[str, Any]) -> bytes:
        request = parse(json.dumps(body).encode())
        fault = self._api.faults.take(request.model, request.texts, lambda _: True)
        if fault is not None:
            refuse(fault, request.model, self._api.key)
        function = self._api.models.get(request.model)
        if function is None:
            raise no_model(request.model)
        counts = [self._api.count_tokens(text) for text in request.texts]
        check_limits(counts)
        vectors = np.ascontiguousarray(function(request.texts, request.dimensions), dtype="<f4")
        self.inputs += len(request.texts)
        self.tokens += sum(counts)
        self.texts.extend(request.texts)
        return render(vectors, request, sum(counts), fault)

    def _shown(self, job: _Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": "/v1/embeddings",
            "status": job.status,
            "input_file_id": job.file,
            "output_file_id": job.output,
            "error_file_id": job.error,
            "completion_window": "24h",
            "created_at": int(time.time() - (time.monotonic() - job.created)),
            "errors": {"object": "list", "data": job.errors} if job.errors else None,
            "metadata": dict(job.metadata),
            "request_counts": {"total": job.lines, "completed": job.done, "failed": job.failed},
        }


def _line(
    number: int, line: Mapping[str, Any], response: Mapping[str, Any] | None, error: Mapping[str, Any] | None = None
) -> bytes:
    found = {"id": f"batch_req_{number}", "custom_id": line["custom_id"], "response": response, "error": error}
    return json.dumps(found).encode()
