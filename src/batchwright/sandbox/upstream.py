"""What the sandbox does with a request, without I/O: answer, limit, fail or misbehave."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import msgspec

from batchwright.sandbox import answers, behaviours
from batchwright.sandbox.answers import (
    CHAT_PATH,
    Composed,
    compose,
    encode,
    error_payload,
    request_hash,
)
from batchwright.sandbox.behaviours import Chosen
from batchwright.sandbox.faults import Tries, fault
from batchwright.sandbox.latency import parse_latency
from batchwright.sandbox.limiter import Limiter, Refusal
from batchwright.sandbox.options import SandboxOptions
from batchwright.sandbox.prompt_cache import Blocks, PromptCache, prompt_blocks
from batchwright.sandbox.quick import quick_chat
from batchwright.sandbox.replies import Ending, Ordinary, Reply, whole
from batchwright.sandbox.streams import events
from batchwright.sandbox.wire import Request

Record = Callable[[str, str, int | None, str], None]  # path, SHA-256 of the body, status, id


class Planned(msgspec.Struct, frozen=True, gc=False):
    """A reply, when it starts, and what the limiter is told at its end."""

    reply: Reply
    latency_s: float = 0.0
    tokens_estimated: int = 0
    tokens_used: int = 0
    prompt: Blocks | None = None  # for the prompt cache, once it is answered


class Upstream:
    """One simulated account at a provider.

    `start_id` makes request ids of different runs different; `record` is called once for each
    request that arrives, before it is answered. `start_s`, of the clock that is given, is where
    the first window of a limit begins: so a run meets its windows at the same times, whenever it
    is made.
    """

    def __init__(
        self, options: SandboxOptions, *, start_id: int, record: Record | None, start_s: float = 0.0
    ) -> None:
        self._start_s = start_s
        self._seed = options.seed
        self._fail_rate = options.fail_rate
        self._latency = None if options.latency == "0" else parse_latency(options.latency)
        self._limiter = _limiter(options)
        self._cache = None if options.prompt_cache is None else PromptCache(options.prompt_cache)
        self._is_special = bool(options.fail_rate) or self._limiter is not None
        self._record = record
        self._tries = Tries()
        self._head_of_ids = f"req_{start_id:x}_"
        self._count = 0

    def plan(self, request: Request, now_s: float) -> Planned:
        """Decide what becomes of a request; `now_s` is a monotonic clock."""
        self._count += 1
        request_id = f"{self._head_of_ids}{self._count:x}"
        planned = self._planned(request, now_s - self._start_s, request_id)
        if self._record is not None:
            body_sha256 = sha256(request.body).hexdigest()
            self._record(request.head.path, body_sha256, planned.reply.status, request_id)
        return planned

    def settle(self, planned: Planned, now_s: float) -> None:
        """The end of a call: its real usage takes the place of the estimate, and from now on its
        prompt can be had from the cache."""
        if self._limiter is not None and planned.tokens_estimated:
            at_s = now_s - self._start_s
            self._limiter.settle(at_s, planned.tokens_estimated, planned.tokens_used)
        if self._cache is not None and planned.prompt is not None and planned.reply.status == 200:
            self._cache.add(planned.prompt)

    def _planned(self, request: Request, now_s: float, request_id: str) -> Planned:
        head = request.head
        if head.method != "POST" or not answers.is_endpoint(head.path):
            return Planned(_other(request, request_id))
        digest = request_hash(head.path, request.body, self._seed)
        if head.path == CHAT_PATH and not self._is_special and not head.behaviour:
            body = quick_chat(request.body, digest)
            if body is not None:
                return Planned(_ok(body, request_id), self._latency_s(digest))
        composed = compose(head.path, request.body, digest)
        if self._limiter is not None:
            refusal = self._limiter.admit(now_s, composed.model, composed.tokens_estimated)
            if refusal is not None:
                limits = self._limiter.headers(now_s)
                return Planned(_refused(refusal, {**_marks(request_id), **limits}))
        prompt = self._look_up(request, composed)
        return Planned(
            self._reply(request, composed, digest, now_s, request_id),
            self._latency_s(digest),
            composed.tokens_estimated,
            composed.tokens_used,
            prompt,
        )

    def _look_up(self, request: Request, composed: Composed) -> Blocks | None:
        """Say in the usage what of the prompt is cached; the prompt, if there is a cache."""
        usage = composed.payload.get("usage")
        if self._cache is None or usage is None:
            return None
        prompt = prompt_blocks(request.head.path, request.body)
        for details in ("prompt_tokens_details", "input_tokens_details"):
            if details in usage:
                usage[details]["cached_tokens"] = self._cache.cached_tokens(prompt)
        return prompt

    def _reply(
        self, request: Request, composed: Composed, digest: bytes, now_s: float, request_id: str
    ) -> Reply:
        name = _behaviour_name(request.head.behaviour, composed.model)
        if not name and not composed.is_stream and not self._is_special:
            return _plain(composed, request_id)
        headers = _marks(request_id)
        if self._limiter is not None:
            headers |= self._limiter.headers(now_s)
        stream = events(composed) if composed.is_stream and composed.status == 200 else None
        ordinary = Ordinary(composed.status, headers, composed.payload, stream)
        chosen = behaviours.find(name) if name else None
        if name and chosen is None:
            return behaviours.refusal(404, headers)
        return self._with_faults(ordinary, chosen, digest)

    def _with_faults(self, ordinary: Ordinary, chosen: Chosen | None, digest: bytes) -> Reply:
        """The ordinary answer, unless the request asks for another or chance has it fail."""
        if chosen is None and not self._fail_rate:
            return ordinary.reply()
        attempt = self._tries.next(digest)
        if chosen is None:
            name = fault(digest, attempt, self._fail_rate)
            chosen = behaviours.find(name) if name is not None else None
        if chosen is None:
            self._tries.answered(digest)
            return ordinary.reply()
        if chosen.bad_tries is not None and attempt > chosen.bad_tries:
            self._tries.answered(digest)
        else:
            self._tries.failed(digest, attempt)
        return chosen.reply(ordinary, attempt)

    def _latency_s(self, digest: bytes) -> float:
        if self._latency is None:
            return 0.0
        return self._latency.draw_s(int.from_bytes(digest[16:22], "big") / 2**48)


def _limiter(options: SandboxOptions) -> Limiter | None:
    if options.rpm is None and options.tpm is None:
        return None
    return Limiter(
        requests_per_minute=options.rpm,
        tokens_per_minute=options.tpm,
        algorithm=options.limiter,
        burst_s=options.burst_s,
        tpm_counts=options.tpm_counts,
    )


def _behaviour_name(header: str, model: str) -> str:
    """The misbehaviour that a request asks for, or nothing."""
    if header or not model.startswith(behaviours.PREFIX):
        return header
    return model.removeprefix(behaviours.PREFIX)


def _plain(composed: Composed, request_id: str) -> Reply:
    """A complete answer with nothing special about it."""
    body = encode(composed.payload)
    if composed.status == 200:
        return _ok(body, request_id)
    return whole(composed.status, _marks(request_id), body)


def _ok(body: bytes, request_id: str) -> Reply:
    return Reply(
        200,
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: batchwright-sandbox\r\n"
        b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (request_id.encode(), len(body), body),
    )


def _marks(request_id: str) -> dict[str, str]:
    return {"server": "batchwright-sandbox", "x-request-id": request_id}


def _other(request: Request, request_id: str) -> Reply:
    """Everything that is not a POST to an endpoint."""
    method, path = request.head.method, request.head.path
    headers = _marks(request_id)
    if path == "/v1/models" and method == "GET":
        names = (*answers.MODELS, *behaviours.model_names())
        return whole(200, headers, encode(answers.models_payload(names)))
    if path.startswith("/v1/models/") and method == "GET":
        return whole(200, headers, encode(compose(path, b"", b"").payload))
    if answers.is_endpoint(path) or path.startswith("/v1/models"):
        other = "POST" if answers.is_endpoint(path) else "GET"
        message = f"Not allowed to {method} on {path}. (HINT: Perhaps you meant {other}?)"
        payload = error_payload(message, code="method_not_supported")
        return whole(405, {**headers, "allow": other}, encode(payload))
    return whole(404, headers, encode(error_payload(f"Invalid URL ({method} {path})")))


def _refused(refusal: Refusal, headers: dict[str, str]) -> Reply:
    """A 429 of the limiter; where waiting cannot help the SDKs are told not to try again."""
    if refusal.retry_after_s is None:
        headers["x-should-retry"] = "false"
    else:
        wait_ms = max(int(refusal.retry_after_s * 1000) + 1, 1)
        headers["retry-after-ms"] = str(wait_ms)
        headers["retry-after"] = str(-(-wait_ms // 1000))
    return whole(429, headers, encode(refusal.payload))


def bad_request(status: int, reason: str) -> Reply:
    """The answer to what is not HTTP, after which the connection ends."""
    reply = whole(status, {"connection": "close"}, encode(error_payload(reason)))
    return msgspec.structs.replace(reply, ending=Ending.CLOSE)
