"""Direct concurrent calls, where there is no batch API or an answer is wanted at once.

A fixed number of workers takes items from one queue: a million items are not a million tasks.
What a server says about its limits holds for all of them: after a `retry-after` nobody sends
before its time is over, and the number of calls at once is halved by each refusal and grows
again with the answers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import Any, Literal, TypeAlias

from msgspec import DecodeError
from msgspec.json import decode

from batchwright.client.api import Client
from batchwright.client.errors import RequestFailure, RequestsFailed, ServerUnreachable
from batchwright.client.http import Answer, error_fields
from batchwright.client.items import (
    CHAT,
    Item,
    answer_of,
    body_of,
    encode,
    plain_endpoint,
    require_list,
    require_no_options,
)
from batchwright.client.progress import Progress, open_progress
from batchwright.client.results import failure_from
from batchwright.client.sync import run_sync
from batchwright.domain.errors import AnswerTooLarge, UsageError
from batchwright.domain.result import Code

BodyMaker: TypeAlias = Callable[[Any], Mapping[str, Any]] | Mapping[str, Any]

MAX_ATTEMPTS = 5
BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
RETRY_AFTER_MAX_S = 3600.0
# Where options of batches belong. Some upstreams take `priority` and `cache` in their bodies.
_WHERE = {
    "dedupe": "batchwright.run(…, dedupe=True) sends once what is asked twice, BatchProcessor with "
    "batch_options={'dedupe': True}",
    "order": "batchwright.run(…, order='prefix') has it, BatchProcessor with batch_options",
    "batch_options": "BatchProcessor takes them",
    "completion_window": "BatchProcessor takes it",
}
# A 429 with one of these codes is cured by money, not by waiting
# (platform.openai.com/docs/guides/error-codes).
_NO_MONEY = frozenset(
    {"insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"}
)


async def process_batch_async(
    items: Iterable[Item],
    api_key: str | None = None,
    model: str | None = None,
    max_concurrent: int = 50,
    *,
    base_url: str | None = None,
    endpoint: str = CHAT,
    body: BodyMaker | None = None,
    system_prompt: str | None = None,
    on_error: Literal["return", "raise"] = "return",
    max_attempts: int = MAX_ATTEMPTS,
    timeout_s: float = 600.0,
    patience_s: float = 600.0,
    progress: bool | None = None,
    **params: Any,
) -> list[Any]:
    """Answer every item with a call of its own; the answers come in the order of the items.

    `items`: strings, lists of messages, or dicts (`{"content": …}`, `{"messages": […]}`,
    fields of the body). `model`, `system_prompt` and `params` go into every request.
    `endpoint`: any JSON endpoint, such as `/embeddings` or `/images/generations`.
    `body`: a function that makes the body of an item, or a dict of further fields for all;
    `model` and `params` are added where the body does not have them.
    `max_concurrent`: calls at once.

    Returns the text of each answer; for embeddings the vector; for other endpoints the body.
    A request that failed, or whose answer has more than 16 MiB (`response_too_large`), leaves a
    falsy `RequestFailure` in its place; with
    `on_error="raise"` `RequestsFailed` is raised at the end, which carries all answers.

    Passing errors are tried again up to `max_attempts` times with growing pauses. Refusals
    for the rate (429) do not count while others get through: an item gives up when nobody
    has for `patience_s`. A wrong key or an empty account ends all: the items that are left
    fail without being sent. `timeout_s` bounds one call.
    Raises `UsageError` before anything is sent for an option that only batches have, and if the
    first item cannot be made into a request; a later one that cannot leaves a `RequestFailure`
    with the code `invalid_item`.
    """
    if max_concurrent < 1 or max_attempts < 1:
        raise UsageError("max_concurrent and max_attempts must be at least 1")
    if on_error not in ("return", "raise"):
        raise UsageError('on_error must be "return" or "raise"', param="on_error")
    require_list(items)
    require_no_options(params, _WHERE)
    maker = _Maker(plain_endpoint(endpoint), model, system_prompt, body, params)
    queue = list(items)
    if queue:
        maker.encoded(0, queue[0])
    async with Client(api_key, base_url, timeout_s=timeout_s) as client:
        with open_progress("requests", progress) as bar:
            run = _Run(client, maker, queue, max_concurrent, max_attempts, patience_s, bar)
            answers = await run.answers()
    if on_error == "raise" and run.failures:
        raise RequestsFailed(answers)
    return answers


def process_batch(
    items: Iterable[Item],
    api_key: str | None = None,
    model: str | None = None,
    max_concurrent: int = 50,
    *,
    base_url: str | None = None,
    endpoint: str = CHAT,
    body: BodyMaker | None = None,
    system_prompt: str | None = None,
    on_error: Literal["return", "raise"] = "return",
    max_attempts: int = MAX_ATTEMPTS,
    timeout_s: float = 600.0,
    patience_s: float = 600.0,
    progress: bool | None = None,
    **params: Any,
) -> list[Any]:
    """`process_batch_async` for ordinary code; it works inside a running notebook too."""
    return run_sync(
        process_batch_async(
            items,
            api_key,
            model,
            max_concurrent,
            base_url=base_url,
            endpoint=endpoint,
            body=body,
            system_prompt=system_prompt,
            on_error=on_error,
            max_attempts=max_attempts,
            timeout_s=timeout_s,
            patience_s=patience_s,
            progress=progress,
            **params,
        )
    )


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the request of an item."""

    endpoint: str
    model: str | None
    system_prompt: str | None
    body: BodyMaker | None
    params: Mapping[str, Any]

    def encoded(self, index: int, item: Item) -> bytes:
        try:
            return encode(self._body(item))
        except UsageError as error:
            raise UsageError(f"item {index}: {error}", param=error.param) from error

    def _body(self, item: Item) -> Mapping[str, Any]:
        if callable(self.body):
            fixed = {"model": self.model} if self.model is not None else {}
            return {**fixed, **self.params, **self.body(item)}
        return body_of(
            item,
            endpoint=self.endpoint,
            model=self.model,
            system_prompt=self.system_prompt,
            params={**self.params, **(self.body or {})},
        )


class _Turnstile:
    """How many calls may be under way at once, and when the next one may start."""

    def __init__(self, limit_max: int) -> None:
        self._limit_max = limit_max
        self._limit = float(limit_max)
        self._active = 0
        self._open_at = 0.0  # monotonic
        self._waiting: list[asyncio.Future[None]] = []
        self._lowered_at = 0.0
        self.answered_at = monotonic()
        self.closed_by: RequestFailure | None = None

    async def enter(self) -> float:
        """Wait for a turn; returns the time it was given."""
        while True:
            now = monotonic()
            if self.closed_by is not None or (
                now >= self._open_at and self._active < max(1, int(self._limit))
            ):
                self._active += 1
                return now
            if now < self._open_at:
                await asyncio.sleep(self._open_at - now)
            else:
                await self._turn()

    async def _turn(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)

    def leave(self) -> None:
        """Give the turn back."""
        self._active -= 1
        room = max(1, int(self._limit)) - self._active
        for waiter in self._waiting[:room]:
            if not waiter.done():
                waiter.set_result(None)

    def answered(self) -> None:
        """A call got through: up by about one per round trip."""
        self.answered_at = monotonic()
        if self._limit < self._limit_max:
            self._limit = min(self._limit_max, self._limit + 1 / self._limit)

    def refused(self, sent_at: float, told_s: float | None) -> None:
        """A call was refused for the rate: halve once per round trip, and pause if told."""
        now = monotonic()
        if sent_at >= self._lowered_at:
            self._limit = max(1.0, self._limit / 2)
            self._lowered_at = now
        if told_s is not None:
            self._open_at = max(self._open_at, now + min(told_s, RETRY_AFTER_MAX_S))

    def close(self, failure: RequestFailure) -> None:
        """Nobody is to send any more."""
        if self.closed_by is None:
            self.closed_by = failure
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class _Run:
    """One call of `process_batch_async`."""

    def __init__(
        self,
        client: Client,
        maker: _Maker,
        items: list[Item],
        max_concurrent: int,
        max_attempts: int,
        patience_s: float,
        bar: Progress,
    ) -> None:
        self._client = client
        self._maker = maker
        self._items = items
        self._workers = min(max_concurrent, len(items))
        self._max_attempts = max_attempts
        self._patience_s = patience_s
        self._bar = bar
        self._turnstile = _Turnstile(max(1, self._workers))
        self._answers: list[Any] = [None] * len(items)
        self._done = 0
        self.failures = 0

    async def answers(self) -> list[Any]:
        """Run the workers to the end of the queue."""
        queue = iter(enumerate(self._items))
        workers = [asyncio.create_task(self._work(queue)) for _ in range(self._workers)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return self._answers

    async def _work(self, queue: Iterator[tuple[int, Item]]) -> None:
        for index, item in queue:
            answer = self._answers[index] = await self._answer_item(index, item)
            self._done += 1
            self.failures += isinstance(answer, RequestFailure)
            failed = f"{self.failures:,} failed" if self.failures else ""
            self._bar.show(self._done, len(self._items), failed)

    async def _answer_item(self, index: int, item: Item) -> Any:
        if self._turnstile.closed_by is not None:
            return self._turnstile.closed_by
        try:
            content = self._maker.encoded(index, item)
        except Exception as error:  # the caller's own function may raise anything
            return RequestFailure("invalid_item", str(error) or repr(error))
        return await self._answer(content)

    async def _answer(self, content: bytes) -> Any:
        """One item to its end: an answer or a failure."""
        attempts = refusals = 0
        while True:
            outcome = await self._call(content)
            match outcome:
                case _Refused():
                    refusals += 1
                    tries, is_over = refusals, self._is_hopeless(refusals)
                case _Broken():
                    attempts += 1
                    tries, is_over = attempts, attempts >= self._max_attempts
                case _:
                    return outcome
            if is_over:
                return outcome.failure
            if not outcome.told:
                await asyncio.sleep(_backoff_s(tries))

    def _is_hopeless(self, refusals: int) -> bool:
        silent_s = monotonic() - self._turnstile.answered_at
        return refusals >= self._max_attempts and silent_s > self._patience_s

    async def _call(self, content: bytes) -> Any:
        """One attempt: the answer, a final `RequestFailure`, `_Refused` or `_Broken`."""
        sent_at = await self._turnstile.enter()
        try:
            if self._turnstile.closed_by is not None:
                return self._turnstile.closed_by
            answer = await self._client.send_once("POST", self._maker.endpoint, content)
        except ServerUnreachable as error:
            return _Broken(RequestFailure("connection_error", str(error)), told=False)
        except AnswerTooLarge as error:  # the next one would be paid for, too
            self._turnstile.answered()
            return RequestFailure(Code.RESPONSE_TOO_LARGE.wire, str(error))
        finally:
            self._turnstile.leave()
        return self._judge(answer, sent_at)

    def _judge(self, answer: Answer, sent_at: float) -> Any:
        if answer.status < HTTPStatus.MULTIPLE_CHOICES:
            self._turnstile.answered()
            return _read(answer, self._maker.endpoint)
        failure = failure_from(error_fields(answer.body), answer.status)
        if _ends_all(failure):
            self._turnstile.close(failure)
        if self._turnstile.closed_by is not None or not answer.should_retry:
            return failure
        told = answer.retry_after_s is not None
        is_rate = answer.status == HTTPStatus.TOO_MANY_REQUESTS
        if told or is_rate:
            self._turnstile.refused(sent_at, answer.retry_after_s)
        return _Refused(failure, told) if is_rate else _Broken(failure, told)


@dataclass(frozen=True, slots=True)
class _Refused:
    """429: over the rate. `told`: the server said for how long, and all wait that long."""

    failure: RequestFailure
    told: bool


@dataclass(frozen=True, slots=True)
class _Broken:
    """A passing failure. `told`: as for `_Refused`."""

    failure: RequestFailure
    told: bool


def _read(answer: Answer, endpoint: str) -> Any:
    try:
        body = decode(answer.body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        failure = RequestFailure("invalid_answer", "the answer is not JSON", answer.status)
        return _Broken(failure, told=False)
    error = body.get("error") if isinstance(body, dict) else None
    if error:
        return failure_from(error, answer.status)
    return answer_of(body, endpoint)


def _ends_all(failure: RequestFailure) -> bool:
    return failure.status == HTTPStatus.UNAUTHORIZED or failure.code in _NO_MONEY


def _backoff_s(tries: int) -> float:
    """Exponential with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter")."""
    ceiling_s: float = min(BACKOFF_FIRST_S * 2 ** (tries - 1), BACKOFF_MAX_S)
    return ceiling_s * random.random()  # noqa: S311  (jitter, no secret)
