from __future__ import annotations

import json
from typing import Any

import pytest

from batchwright.domain.errors import ConfigError
from batchwright.sandbox.answers import CHAT_PATH, compose, request_hash
from batchwright.sandbox.options import SandboxOptions
from batchwright.sandbox.prompt_cache import RESPONSES_PATH, PromptCache, prompt_blocks
from batchwright.sandbox.upstream import Planned, Upstream
from batchwright.sandbox.wire import Request, RequestReader

LONG = "a b " * 2_000  # 2,000 tokens


def chat(system: str, question: str = "why?", **more: Any) -> bytes:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return json.dumps({"model": "m", "messages": messages, **more}).encode()


def request(body: bytes, path: str = CHAT_PATH) -> Request:
    reader = RequestReader()
    head = f"POST {path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
    reader.feed(head.encode() + body)
    found = reader.next()
    assert found is not None
    return found


class Played:
    """An upstream whose calls a test begins and ends."""

    def __init__(self, **options: Any) -> None:
        self._upstream = Upstream(SandboxOptions(**options), start_id=1, record=None)

    def begin(self, body: bytes, path: str = CHAT_PATH) -> Planned:
        return self._upstream.plan(request(body, path), 0.0)

    def end(self, planned: Planned) -> None:
        self._upstream.settle(planned, 0.0)

    def cached(self, body: bytes, path: str = CHAT_PATH) -> int:
        """Of a whole call."""
        planned = self.begin(body, path)
        self.end(planned)
        return cached_in(planned)


def cached_in(planned: Planned) -> int:
    usage = json.loads(planned.reply.data.partition(b"\r\n\r\n")[2])["usage"]
    details = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
    cached: int = details["cached_tokens"]
    return cached


def test_what_two_prompts_have_in_common_is_cached_in_steps_of_128() -> None:
    upstream = Played(prompt_cache=10_000)
    assert upstream.cached(chat(LONG)) == 0
    assert upstream.cached(chat(LONG, "how?")) == 2_000 // 128 * 128
    assert upstream.cached(chat(LONG[:4_400] + "c" * 4_000)) == 1_100 // 128 * 128


def test_less_than_1024_tokens_in_common_are_not_cached() -> None:
    upstream = Played(prompt_cache=10_000)
    upstream.cached(chat(LONG))
    assert upstream.cached(chat(LONG[:4_000] + "c" * 4_000)) == 0
    assert upstream.cached(chat("short")) == upstream.cached(chat("short")) == 0


def test_a_prompt_can_be_had_once_it_is_answered_and_not_before() -> None:
    upstream = Played(prompt_cache=10_000)
    first, second = upstream.begin(chat(LONG)), upstream.begin(chat(LONG, "how?"))
    upstream.end(first)
    third = upstream.begin(chat(LONG, "when?"))
    assert (cached_in(second), cached_in(third)) == (0, 1_920)


@pytest.mark.parametrize(
    "more",
    [{"tools": [{"type": "function"}]}, {"model": "n"}, {"response_format": {"type": "text"}}],
)
def test_tools_formats_and_models_come_before_the_messages(more: dict[str, Any]) -> None:
    upstream = Played(prompt_cache=10_000)
    upstream.cached(chat(LONG))
    assert upstream.cached(chat(LONG, **more)) == 0


def test_a_response_has_a_prompt_too() -> None:
    upstream = Played(prompt_cache=10_000)
    for question, cached in (("why?", 0), ([{"role": "user", "content": "how?"}], 1_920)):
        body = {"model": "m", "instructions": LONG, "input": question}
        assert upstream.cached(json.dumps(body).encode(), RESPONSES_PATH) == cached


def test_the_least_recently_used_goes_first_and_its_end_before_its_beginning() -> None:
    cache = PromptCache(20 * 128)
    first, second = [b"a%d" % i for i in range(10)], [b"b%d" % i for i in range(10)]
    cache.add(first)
    cache.add(second)
    assert cache.cached_tokens(first) == 1_280
    cache.add([b"c%d" % i for i in range(8)])
    assert cache.cached_tokens(first) == 1_280
    assert cache.cached_tokens(second) == 0
    cache.add([b"d%d" % i for i in range(8)])
    cache.add([b"e%d" % i for i in range(8)])
    assert cache.cached_tokens(first) == 0


def test_a_failure_is_not_kept() -> None:
    upstream = Played(prompt_cache=10_000)
    body = chat(LONG, model="sandbox/once-status-500")  # every other try fails
    found = []
    for _ in range(2):
        failed = upstream.begin(body)
        assert failed.reply.status == 500
        upstream.end(failed)
        found.append(upstream.cached(body))
    assert found == [0, 1_920]


def test_blocks_are_no_more_than_the_tokens_that_are_counted() -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:"}}, {"type": "text", "text": LONG}]
    for body in (chat("x" * 511), chat(LONG + "é"), chat(LONG, n=2, question=picture)):
        payload = compose(CHAT_PATH, body, request_hash(CHAT_PATH, body)).payload
        tokens = payload["usage"]["prompt_tokens"]
        assert tokens - 128 - 3 <= 128 * len(prompt_blocks(CHAT_PATH, body)) <= tokens


def test_without_the_option_half_of_a_long_prompt_counts_as_cached() -> None:
    assert Played().cached(chat(LONG)) == Played().cached(chat(LONG)) > 0


def test_a_cache_that_can_hold_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="prompt-cache: expected at least 1024, got 1000"):
        SandboxOptions(prompt_cache=1000)
