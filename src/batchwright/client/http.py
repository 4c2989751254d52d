"""A thin client of any OpenAI-compatible Files, Batches and Models API.

One method per operation, plain dictionaries as the wire has them. Retries follow the official
SDK (reference: openai-python `_base_client.py`): connection errors, 408, 409, 429 and 5xx,
`x-should-retry` overrides, `retry-after` is obeyed. What must not happen twice carries an
`Idempotency-Key`, which servers that do not know it ignore. Two uploads do no harm; two batches
would be paid twice, so that the list of batches is looked at before one is asked for again.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from time import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from urllib.parse import quote

from pyreqwest.client import Client as HttpClient
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.multipart import FormBuilder, PartBuilder

from batchwright.client.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    ObjectNotFound,
    RateLimited,
    ServerFailed,
    ServerUnreachable,
    StateConflict,
    Unauthenticated,
)
from batchwright.client.settings import resolve_endpoint
from batchwright.replacing import replacing_async

if TYPE_CHECKING:
    from pyreqwest.request import RequestBuilder
    from pyreqwest.response import Response

Json = dict[str, Any]
OnBytes = Callable[[int], None]

CONNECT_TIMEOUT_S = 10.0
RETRY_AFTER_MAX_S = 120.0  # the official SDK's: above it a caller is told rather than kept
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 8.0
UPLOAD_RATE_MIN = 64 * 1024  # bytes a second; slower uploads run into the timeout
CHUNK_BYTES = 1024 * 1024
ERROR_TEXT_MAX = 500
BATCHES_LOOKED_AT = 100  # the newest: one that was just begun is among them

_RETRYABLE = frozenset({408, 409, 429})
_ERRORS: dict[int, type[ApiError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: ObjectNotFound,
    409: StateConflict,
    429: RateLimited,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer, whatever its status."""

    status: int
    body: bytes
    retry_after_s: float | None  # what the server asked for, not capped
    should_retry: bool  # by status and `x-should-retry`
    request_id: str | None


Find = Callable[[], Awaitable[Answer | None]]
"""Looks whether a call whose answer was lost had its effect: its answer, or None."""


class _Unclear(Exception):
    """It cannot be told whether a call whose answer was lost had its effect."""


class Client:
    """A client of one server. Use it in `async with`, or call `close()`.

    `api_key` and `base_url`: see `resolve_endpoint`. `retries` is how often a call that
    failed for a passing reason is repeated. `timeout_s` bounds one call, and the silence
    between two pieces of a download.

    Every method raises `ApiError` (or a subclass) for an error answer and
    `ServerUnreachable` where no answer came.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        retries: int = 4,
        timeout_s: float = 600.0,
        data_dir: Path | str | None = None,
    ) -> None:
        endpoint = resolve_endpoint(api_key, base_url, data_dir=data_dir)
        self.base_url = endpoint.base_url
        self.batch_options: Mapping[str, Any] = {}
        """What each batch is created with under `batchwright` (batchwright servers only)."""
        self._has_key = endpoint.api_key is not None
        self._retries = retries
        self._timeout_s = timeout_s
        self._http = _build(endpoint.api_key, use_proxies=not endpoint.is_loopback)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Safe twice."""
        await self._http.close()

    # --- files

    async def upload_file(
        self,
        path: Path | str,
        *,
        purpose: str = "batch",
        filename: str | None = None,
        start: int = 0,
        size_bytes: int | None = None,
        expires_after_s: int | None = None,
        idempotency_key: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Json:
        """Upload a file, or `size_bytes` of it from the byte `start` on; returns the File.

        It is streamed from disk. `on_bytes(n)` is called as `n` more bytes have been handed
        to the connection (a negative `n` takes back what a broken try had sent).
        """
        source = Path(path)
        size = size_bytes
        if size is None:
            size = (await asyncio.to_thread(source.stat)).st_size - start
        upload = _Upload(source, start, size, on_bytes)
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        timeout_s = self._timeout_s + size / UPLOAD_RATE_MIN

        def build() -> RequestBuilder:
            form = FormBuilder().text("purpose", purpose)
            if expires_after_s is not None:
                form = form.text("expires_after[anchor]", "created_at")
                form = form.text("expires_after[seconds]", str(expires_after_s))
            name = _plain_name(filename or source.name)
            part = PartBuilder.from_stream_with_length(upload.chunks(), size)
            form = form.part("file", part.file_name(name).mime("application/jsonl"))
            return self._builder("POST", "/files", headers, timeout_s).multipart(form)

        return await self._json(build)

    async def get_file(self, file_id: str) -> Json:
        """The File object of `file_id`."""
        return await self._call("GET", f"/files/{_segment(file_id)}")

    async def delete_file(self, file_id: str) -> Json:
        """Delete a file; returns `{"id", "object", "deleted"}`."""
        return await self._call("DELETE", f"/files/{_segment(file_id)}")

    async def list_files(
        self,
        *,
        limit: int | None = None,
        after: str | None = None,
        purpose: str | None = None,
        order: str | None = None,
    ) -> Json:
        """One page of files: `{"data", "has_more", "first_id", "last_id"}`."""
        query = {"limit": limit, "after": after, "purpose": purpose, "order": order}
        return await self._call("GET", "/files", query=query)

    async def iter_content(self, file_id: str) -> AsyncIterator[bytes]:
        """The bytes of a file as they arrive.

        A broken connection is taken up again where it broke (with `Range`; a server that
        does not support it sends the file again and what was seen is skipped).
        """
        seen, failures = 0, 0
        while True:
            before = seen
            try:
                async for chunk in self._content_from(file_id, seen):
                    seen += len(chunk)
                    yield chunk
                return
            except (ServerUnreachable, ApiError) as error:
                failures = 1 if seen > before else failures + 1
                if failures > self._retries or not _is_passing(error):
                    raise
                await asyncio.sleep(_wait_s(failures, getattr(error, "retry_after_s", None)))

    async def iter_lines(self, file_id: str) -> AsyncIterator[bytes]:
        """The lines of a file without their line ends; blank ones are left out.

        Lines end at a line feed only: other Unicode line breaks may stand inside JSON.
        """
        rest = bytearray()
        async for chunk in self.iter_content(file_id):
            rest += chunk
            if b"\n" not in chunk:
                continue
            *lines, tail = bytes(rest).split(b"\n")
            rest = bytearray(tail)
            for line in lines:
                if stripped := line.strip():
                    yield stripped
        if stripped := bytes(rest).strip():
            yield stripped

    async def download(
        self, file_id: str, path: Path | str, *, on_bytes: OnBytes | None = None
    ) -> int:
        """Write the content of a file to `path`; returns its size in bytes.

        `path` appears, or is replaced, only when it is complete.
        """
        size = 0
        async with replacing_async(Path(path)) as temporary:
            with temporary.open("wb") as out:
                async for chunk in self.iter_content(file_id):
                    await asyncio.to_thread(out.write, chunk)
                    size += len(chunk)
                    if on_bytes is not None:
                        on_bytes(len(chunk))
        return size

    # --- batches

    async def create_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        is_fresh_file: bool = False,
    ) -> Json:
        """Create a batch; `extra` is merged into the request body. Returns the Batch.

        Where the answer was lost, the server may have begun the batch: if its list has one over
        the same file, this is it where `is_fresh_file` says that there was none before. Else
        nothing is repeated, and the error is raised.
        """
        body = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": completion_window,
            **({"metadata": dict(metadata)} if metadata else {}),
            **({"batchwright": dict(self.batch_options)} if self.batch_options else {}),
            **(extra or {}),
        }
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}

        async def find() -> Answer | None:
            return await self._find_begun(input_file_id, is_fresh_file)

        return await self._call("POST", "/batches", json_body=body, headers=headers, find=find)

    async def _find_begun(self, input_file_id: str, is_fresh_file: bool) -> Answer | None:
        """The batch over a file, as if it had been answered. Raises `_Unclear`."""
        newest = (await self.list_batches(limit=BATCHES_LOOKED_AT)).get("data") or []
        begun = [batch for batch in newest if batch.get("input_file_id") == input_file_id]
        if not begun:
            return None
        if len(begun) > 1 or not is_fresh_file:
            raise _Unclear
        return Answer(HTTPStatus.OK, json.dumps(begun[0]).encode(), None, False, None)

    async def get_batch(self, batch_id: str) -> Json:
        """The Batch object of `batch_id`."""
        return await self._call("GET", f"/batches/{_segment(batch_id)}")

    async def list_batches(self, *, limit: int | None = None, after: str | None = None) -> Json:
        """One page of batches, newest first: `{"data", "has_more", "first_id", "last_id"}`."""
        return await self._call("GET", "/batches", query={"limit": limit, "after": after})

    async def cancel_batch(self, batch_id: str) -> Json:
        """Cancel a batch; raises `StateConflict` if it has ended. Returns the Batch."""
        return await self._call("POST", f"/batches/{_segment(batch_id)}/cancel", json_body={})

    async def pause_batch(self, batch_id: str) -> Json:
        """Send nothing more of a batch until it is resumed (batchwright servers only)."""
        return await self._call("POST", f"/batches/{_segment(batch_id)}/pause", json_body={})

    async def resume_batch(self, batch_id: str) -> Json:
        """Go on with a paused batch (batchwright servers only)."""
        return await self._call("POST", f"/batches/{_segment(batch_id)}/resume", json_body={})

    async def set_priority(self, batch_id: str, priority: str) -> Json:
        """Make a batch `low`, `normal` or `high` from now on (batchwright servers only)."""
        path = f"/batches/{_segment(batch_id)}/priority"
        return await self._call("POST", path, json_body={"priority": priority})

    async def retry_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> Json:
        """A new batch of the failed lines of this one (batchwright servers only)."""
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        path = f"/batches/{_segment(batch_id)}/retry"
        return await self._call("POST", path, json_body={}, headers=headers)

    async def batch_results(
        self, batch_id: str, *, after: str | None = None, limit: int | None = None
    ) -> Json:
        """One page of result lines, also while the batch runs (batchwright servers only)."""
        path = f"/batches/{_segment(batch_id)}/results"
        return await self._call("GET", path, query={"after": after, "limit": limit})

    # --- models and keys

    async def list_models(self) -> list[Json]:
        """Every model that the server offers."""
        page = await self._call("GET", "/models")
        return list(page.get("data") or [])

    async def create_key(self, **fields: Any) -> Json:
        """Create an API key (batchwright servers, admin keys only); its text is shown once."""
        given = {name: value for name, value in fields.items() if value is not None}
        return await self._call("POST", "/batchwright/keys", json_body=given)

    async def list_keys(self) -> list[Json]:
        """Every API key, without its text (batchwright servers, admin keys only)."""
        page = await self._call("GET", "/batchwright/keys")
        return list(page.get("data") or [])

    async def revoke_key(self, key_id: str) -> Json:
        """Revoke an API key (batchwright servers, admin keys only)."""
        return await self._call("DELETE", f"/batchwright/keys/{_segment(key_id)}")

    # --- one call

    async def send_once(
        self, method: str, path: str, body: bytes, *, timeout_s: float | None = None
    ) -> Answer:
        """One call with a JSON body and no retry, whatever the status of the answer.

        Raises `ServerUnreachable`.
        """
        builder = self._builder(method, path, {}, timeout_s or self._timeout_s)
        return await self._send(builder.header("content-type", "application/json").body_bytes(body))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json_body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        find: Find | None = None,
    ) -> Json:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        content = None if json_body is None else json.dumps(json_body).encode()

        def build() -> RequestBuilder:
            builder = self._builder(method, path, headers or {}, self._timeout_s)
            if given:
                builder = builder.query(given)
            if content is not None:
                builder = builder.header("content-type", "application/json").body_bytes(content)
            return builder

        return await self._json(build, find)

    async def _json(self, build: Callable[[], RequestBuilder], find: Find | None = None) -> Json:
        answer = await self._send_retrying(build, find)
        try:
            value = json.loads(answer.body)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ServerUnreachable(
                f"{self.base_url} did not answer with a JSON object; "
                "is it the base URL of an OpenAI-compatible API? It usually ends in /v1"
            )
        return value

    async def _send_retrying(
        self, build: Callable[[], RequestBuilder], find: Find | None
    ) -> Answer:
        tries = 0
        while True:
            tries += 1
            error: ApiError | ServerUnreachable
            try:
                answer = await self._send(build())
                if answer.status < HTTPStatus.BAD_REQUEST:
                    return answer
                error, told_s = self.error_of(answer), answer.retry_after_s
                final = not answer.should_retry or (told_s or 0) > RETRY_AFTER_MAX_S
            except ServerUnreachable as unreachable:
                error, told_s, final = unreachable, None, False
            if final or tries > self._retries:
                raise error
            await asyncio.sleep(_wait_s(tries, told_s))
            if find is not None and not isinstance(error, RateLimited | StateConflict):
                try:
                    found = await find()
                except (_Unclear, ApiError, ServerUnreachable) as unclear:
                    raise error from unclear
                if found is not None:
                    return found

    async def _send(self, builder: RequestBuilder) -> Answer:
        try:
            response = await builder.build().send()
            body = (await response.bytes()).to_bytes()
        except PyreqwestError as error:
            raise self._unreachable(error) from error
        return _answer(response, body)

    @asynccontextmanager
    async def _open(self, builder: RequestBuilder) -> AsyncIterator[Response]:
        # A limit of 1 hands out what has come; else 64 KiB gather and break off together.
        request = builder.streamed_read_buffer_limit(1).build_streamed()
        try:
            async with request as response:
                yield response
        except (PyreqwestError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _content_from(self, file_id: str, start: int) -> AsyncIterator[bytes]:
        # Ranges count the bytes on the wire, so the content must not be compressed there.
        headers = {"accept": "application/binary", "accept-encoding": "identity"}
        if start:
            headers["range"] = f"bytes={start}-"
        path = f"/files/{_segment(file_id)}/content"
        async with self._open(self._builder("GET", path, headers, None)) as response:
            if start and response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # it broke exactly at its end
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise self.error_of(_answer(response, (await response.bytes()).to_bytes()))
            skip = start if response.status != HTTPStatus.PARTIAL_CONTENT else 0
            while (chunk := await self._next_chunk(response)) is not None:
                if len(chunk) > skip:
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    async def _next_chunk(self, response: Response) -> bytes | None:
        async with asyncio.timeout(self._timeout_s):
            chunk = await response.body_reader.read_chunk()
        return None if chunk is None else chunk.to_bytes()

    def _builder(
        self, method: str, path: str, headers: Mapping[str, str], timeout_s: float | None
    ) -> RequestBuilder:
        builder = self._http.request(method, self.base_url + path)
        if headers:
            builder = builder.headers(headers)
        return builder if timeout_s is None else builder.timeout(timedelta(seconds=timeout_s))

    # --- errors

    def error_of(self, answer: Answer) -> ApiError:
        """The exception for an answer with an error status."""
        fields = error_fields(answer.body)
        message = str(fields.get("message") or f"HTTP {answer.status} from {self.base_url}")
        if answer.status == HTTPStatus.UNAUTHORIZED and not self._has_key:
            message += " (no key was given: pass api_key or set BATCHWRIGHT_API_KEY)"
        kind = _ERRORS.get(answer.status)
        if kind is None:
            kind = ServerFailed if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR else BadRequest
        return kind(
            message,
            status=answer.status,
            code=_text_or_none(fields.get("code")),
            kind=_text_or_none(fields.get("type")),
            param=_text_or_none(fields.get("param")),
            request_id=answer.request_id,
            retry_after_s=answer.retry_after_s,
        )

    def _unreachable(self, error: BaseException) -> ServerUnreachable:
        if isinstance(error, TimeoutError):
            return ServerUnreachable(f"{self.base_url} did not answer within {self._timeout_s:g} s")
        details = getattr(error, "details", None) or {}
        causes = details.get("causes") or []
        cause = causes[-1]["message"] if causes else str(error)
        return ServerUnreachable(f"No answer from {self.base_url}: {cause}. Is the server running?")


class _Upload:
    """The bytes of one upload; each try reads them from the start again."""

    def __init__(self, path: Path, start: int, size: int, on_bytes: OnBytes | None) -> None:
        self._path = path
        self._start = start
        self._size = size
        self._on_bytes = on_bytes
        self._told = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        self._tell(-self._told)
        with await asyncio.to_thread(self._open) as source:
            left = self._size
            while left:
                chunk = await asyncio.to_thread(source.read, min(CHUNK_BYTES, left))
                if not chunk:
                    raise OSError(f"{self._path} became shorter while it was uploaded")
                left -= len(chunk)
                yield chunk
                self._tell(len(chunk))

    def _open(self) -> BinaryIO:
        source = self._path.open("rb")
        source.seek(self._start)
        return source

    def _tell(self, size: int) -> None:
        self._told += size
        if self._on_bytes is not None and size:
            self._on_bytes(size)


def error_fields(body: bytes) -> Json:
    """The inner object of an OpenAI error body; for other bodies `message` with their text."""
    try:
        value = json.loads(body)
    except ValueError:
        return {"message": body[:ERROR_TEXT_MAX].decode("utf-8", "replace").strip()}
    inner = value.get("error", value.get("detail")) if isinstance(value, dict) else None
    if isinstance(inner, dict):
        return inner
    return {"message": inner if isinstance(inner, str) else json.dumps(value)[:ERROR_TEXT_MAX]}


def _build(api_key: str | None, *, use_proxies: bool) -> HttpClient:
    builder = (
        ClientBuilder()
        .user_agent("batchwright-client")
        .connect_timeout(timedelta(seconds=CONNECT_TIMEOUT_S))
    )
    if api_key is not None:
        builder = builder.default_headers({"authorization": f"Bearer {api_key}"})
    return (builder if use_proxies else builder.no_proxy()).build()


def _answer(response: Response, body: bytes) -> Answer:
    if response.status < HTTPStatus.BAD_REQUEST:
        return Answer(response.status, body, None, False, None)
    return Answer(
        status=response.status,
        body=body,
        retry_after_s=_retry_after_s(response),
        should_retry=_should_retry(response),
        request_id=response.get_header("x-request-id"),
    )


def _should_retry(response: Response) -> bool:
    told = response.get_header("x-should-retry")
    if told in ("true", "false"):
        return told == "true"
    return response.status in _RETRYABLE or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _retry_after_s(response: Response) -> float | None:
    """Seconds to wait by `retry-after-ms` or `retry-after` (seconds or an HTTP date)."""
    milliseconds = _number(response.get_header("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = response.get_header("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time())
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _wait_s(tries: int, told_s: float | None) -> float:
    """How long to wait after the try number `tries`: as told, else 0.5 s doubling to 8 s."""
    if told_s is not None:
        return min(told_s, RETRY_AFTER_MAX_S)
    backoff_s: float = min(BACKOFF_FIRST_S * 2 ** (tries - 1), BACKOFF_MAX_S)
    return backoff_s * (1 - 0.25 * random.random())  # noqa: S311  (jitter, no secret)


def _is_passing(error: ServerUnreachable | ApiError) -> bool:
    if isinstance(error, ApiError):
        return error.status in _RETRYABLE or isinstance(error, ServerFailed)
    return True


def _segment(identifier: str) -> str:
    """An id as one segment of a path, whatever it contains."""
    return quote(identifier, safe="")


def _plain_name(name: str) -> str:
    """A file name that cannot break out of its header."""
    return "".join(letter if letter.isprintable() else "_" for letter in name)


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)
