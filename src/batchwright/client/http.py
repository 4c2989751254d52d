"""HTTP calls to one server, with retries and errors as callers of the API know them.

Retries follow the official SDK (reference: openai-python `_base_client.py`): connection errors,
408, 409, 429 and 5xx, `x-should-retry` overrides, `retry-after` is obeyed.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time
from typing import TYPE_CHECKING, Any

from pyreqwest.client import Client as HttpClient
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError

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
from batchwright.domain.errors import AnswerTooLarge
from batchwright.domain.result import ANSWER_BYTES_MAX

if TYPE_CHECKING:
    from pyreqwest.request import RequestBuilder
    from pyreqwest.response import Response

    from batchwright.client.settings import Endpoint

Json = dict[str, Any]

CONNECT_TIMEOUT_S = 10.0
RETRY_AFTER_MAX_S = 120.0  # the official SDK's: above it a caller is told rather than kept
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 8.0
ERROR_TEXT_MAX = 500

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


class Unclear(Exception):
    """It cannot be told whether a call whose answer was lost had its effect."""


class Http:
    """The connections to one server.

    `retries` is how often a call that failed for a passing reason is repeated. `timeout_s` bounds
    one call, and the silence between two pieces of a download.
    """

    def __init__(self, endpoint: Endpoint, *, retries: int, timeout_s: float) -> None:
        self.base_url = endpoint.base_url
        self.timeout_s = timeout_s
        self._has_key = endpoint.api_key is not None
        self._retries = retries
        self._http = _build(endpoint.api_key, use_proxies=not endpoint.is_loopback)

    async def close(self) -> None:
        """Close every connection. Safe twice."""
        await self._http.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json_body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        find: Find | None = None,
    ) -> Json:
        """One call, with what it is given; the JSON object that it is answered with.

        Raises `ApiError` and `ServerUnreachable`.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        content = None if json_body is None else json.dumps(json_body).encode()

        def build() -> RequestBuilder:
            builder = self.builder(method, path, headers or {}, self.timeout_s)
            if given:
                builder = builder.query(given)
            if content is not None:
                builder = builder.header("content-type", "application/json").body_bytes(content)
            return builder

        return await self.json(build, find)

    async def json(self, build: Callable[[], RequestBuilder], find: Find | None = None) -> Json:
        """As `call`, for a request that `build` makes, anew for each try."""
        answer = await self._send_retrying(build, find)
        try:
            value = json.loads(answer.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ServerUnreachable(
                f"{self.base_url} did not answer with a JSON object; "
                "is it the base URL of an OpenAI-compatible API? It usually ends in /v1"
            )
        return value

    async def send_once(
        self, method: str, path: str, body: bytes, *, timeout_s: float | None = None
    ) -> Answer:
        """One call with a JSON body and no retry, whatever the status of the answer.

        Raises `ServerUnreachable`, and `AnswerTooLarge` above `ANSWER_BYTES_MAX`.
        """
        builder = self.builder(method, path, {}, timeout_s or self.timeout_s)
        builder = builder.header("content-type", "application/json").body_bytes(body)
        return await self._send_capped(builder, ANSWER_BYTES_MAX)

    async def iter_content(self, path: str) -> AsyncIterator[bytes]:
        """The bytes behind a path as they arrive.

        A broken connection is taken up again where it broke (with `Range`; a server that
        does not support it sends the file again and what was seen is skipped).
        """
        seen, failures = 0, 0
        while True:
            before = seen
            try:
                async for chunk in self._content_from(path, seen):
                    seen += len(chunk)
                    yield chunk
                return
            except (ServerUnreachable, ApiError) as error:
                failures = 1 if seen > before else failures + 1
                if failures > self._retries or not _is_passing(error):
                    raise
                await asyncio.sleep(_wait_s(failures, getattr(error, "retry_after_s", None)))

    def builder(
        self, method: str, path: str, headers: Mapping[str, str], timeout_s: float | None
    ) -> RequestBuilder:
        """A request to a path of the API, without its body."""
        builder = self._http.request(method, self.base_url + path)
        if headers:
            builder = builder.headers(headers)
        return builder if timeout_s is None else builder.timeout(timedelta(seconds=timeout_s))

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
                error, told_s = self._error_of(answer), answer.retry_after_s
                final = not answer.should_retry or (told_s or 0) > RETRY_AFTER_MAX_S
            except ServerUnreachable as unreachable:
                error, told_s, final = unreachable, None, False
            if final or tries > self._retries:
                raise error
            await asyncio.sleep(_wait_s(tries, told_s))
            if find is not None and not isinstance(error, RateLimited | StateConflict):
                try:
                    found = await find()
                except (Unclear, ApiError, ServerUnreachable) as unclear:
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

    async def _send_capped(self, builder: RequestBuilder, bytes_max: int) -> Answer:
        request = builder.build_streamed()
        try:
            response = await request.__aenter__()
            read = await response.body_reader.read(bytes_max + 1)
        except PyreqwestError as error:
            raise self._unreachable(error) from error
        # One that was read to its end needs no leaving, and a cancelled one is not to wait for it.
        if read is not None and len(read) > bytes_max:
            await request.__aexit__(None, None, None)
            raise AnswerTooLarge(f"the answer is larger than {bytes_max} bytes")
        return _answer(response, b"" if read is None else read.to_bytes())

    async def _content_from(self, path: str, start: int) -> AsyncIterator[bytes]:
        # Ranges count the bytes on the wire, so the content must not be compressed there.
        headers = {"accept": "application/binary", "accept-encoding": "identity"}
        if start:
            headers["range"] = f"bytes={start}-"
        async with self._open(self.builder("GET", path, headers, None)) as response:
            if start and response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # it broke exactly at its end
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise self._error_of(_answer(response, (await response.bytes()).to_bytes()))
            skip = start if response.status != HTTPStatus.PARTIAL_CONTENT else 0
            while (chunk := await self._next_chunk(response)) is not None:
                if len(chunk) > skip:
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    @asynccontextmanager
    async def _open(self, builder: RequestBuilder) -> AsyncIterator[Response]:
        # A limit of 1 hands out what has come; else 64 KiB gather and break off together.
        request = builder.streamed_read_buffer_limit(1).build_streamed()
        try:
            async with request as response:
                yield response
        except (PyreqwestError, TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _next_chunk(self, response: Response) -> bytes | None:
        async with asyncio.timeout(self.timeout_s):
            chunk = await response.body_reader.read_chunk()
        return None if chunk is None else chunk.to_bytes()

    def _error_of(self, answer: Answer) -> ApiError:
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
            return ServerUnreachable(f"{self.base_url} did not answer within {self.timeout_s:g} s")
        details = getattr(error, "details", None) or {}
        causes = details.get("causes") or []
        cause = causes[-1]["message"] if causes else str(error)
        return ServerUnreachable(f"No answer from {self.base_url}: {cause}. Is the server running?")


def error_fields(body: bytes) -> Json:
    """The inner object of an OpenAI error body; for other bodies `message` with their text."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
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


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)
