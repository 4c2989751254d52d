from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from batchwright.domain.errors import ConfigError, TransportError
from batchwright.providers.base import Answer, Call, Provider, StreamedAnswer
from batchwright.providers.openai import OpenAIProvider


class ScriptedTransport:
    """Gives one prepared answer to every call and keeps the calls."""

    def __init__(self, status: int = 200, body: bytes = b"{}") -> None:
        self.answer = Answer(status, {}, body)
        self.calls: list[Call] = []

    async def send(self, call: Call) -> Answer:
        self.calls.append(call)
        return self.answer

    def stream(self, call: Call) -> AbstractAsyncContextManager[StreamedAnswer]:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def provider(**given: Any) -> OpenAIProvider:
    settings: dict[str, Any] = {
        "name": "openai",
        "base_url": "https://api.openai.com/v1",
        "api_key": "sk-secret",
        "transport": ScriptedTransport(),
    }
    return OpenAIProvider(**(settings | given))


def test_it_is_a_provider() -> None:
    checked: Provider = provider()

    assert (checked.name, checked.kind) == ("openai", "openai")


# --- calls


def test_a_call_carries_the_body_as_it_is_with_key_and_limits() -> None:
    call = provider(timeout_s=5, answer_bytes_max=100).prepare("/v1/chat/completions", b'{ "a":1}')

    assert (call.method, call.body) == ("POST", b'{ "a":1}')
    assert call.url == "https://api.openai.com/v1/chat/completions"
    assert dict(call.headers) == {
        "content-type": "application/json",
        "authorization": "Bearer sk-secret",
    }
    assert (call.timeout_s, call.answer_bytes_max) == (5, 100)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/embeddings"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/embeddings"),
        ("https://api.openai.com", "https://api.openai.com/v1/embeddings"),
        ("http://localhost:11434/", "http://localhost:11434/v1/embeddings"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/embeddings"),
        ("https://api.z.ai/api/paas/v4", "https://api.z.ai/api/paas/v4/embeddings"),
        ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1/embeddings"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/embeddings"),
    ],
)
def test_the_base_url_takes_the_place_of_the_lines_version(base_url: str, expected: str) -> None:
    assert provider(base_url=base_url).prepare("/v1/embeddings", b"{}").url == expected


def test_a_path_that_only_begins_like_the_version_is_kept() -> None:
    assert provider().prepare("/v1x/rerank", b"{}").url == "https://api.openai.com/v1/v1x/rerank"


def test_without_a_key_no_authorization_is_sent() -> None:
    assert "authorization" not in provider(api_key=None).prepare("/v1/embeddings", b"{}").headers


def test_configured_headers_are_sent_and_may_replace_the_keys() -> None:
    given = {"X-Team": "data science", "Authorization": "Basic abc"}

    headers = provider(headers=given).prepare("/v1/embeddings", b"{}").headers

    assert headers["x-team"] == "data science"
    assert headers["authorization"] == "Basic abc"


def test_the_key_is_in_no_representation() -> None:
    assert "sk-secret" not in repr(provider())
    assert "api_key=None" in repr(provider(api_key=None))


# --- settings that cannot work


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.openai.com/v1",
        "ftp://host/v1",
        "https://",
        "https://host:99999/v1",
        "https://user:pw@host/v1",
        "https://host/v1?key=sk-secret",
        "https://host/v1#x",
        "https://[::1/v1",
    ],
)
def test_a_base_url_that_cannot_be_joined_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigError, match=r"providers\.openai\.base_url: expected") as caught:
        provider(base_url=base_url)

    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("api_key", ["", "sk secret", "sk-secret\n", "sk-sécret"])
def test_a_key_that_cannot_be_sent_is_refused_without_repeating_it(api_key: str) -> None:
    with pytest.raises(ConfigError, match="api_key: expected") as caught:
        provider(api_key=api_key)

    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [{"content-length": "5"}, {"Host": "evil"}, {"x y": "1"}, {"x": "a\r\nb: c"}, {"x": "é"}],
)
def test_a_header_that_cannot_be_sent_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"providers\.openai\.headers\."):
        provider(headers=headers)


# --- models


MODELS = b'{"object":"list","data":[{"id":"gpt-5"},{"id":"o9"},{"id":"gpt-5"},{"id":"models/g"}]}'


async def test_models_are_asked_for_where_the_configuration_is_silent() -> None:
    transport = ScriptedTransport(body=MODELS)
    silent = provider(transport=transport)

    assert await silent.list_models() == ["gpt-5", "o9", "g"]
    assert [(call.method, call.url) for call in transport.calls] == [
        ("GET", "https://api.openai.com/v1/models")
    ]
    assert transport.calls[0].body == b""
    assert transport.calls[0].answer_bytes_max == 4 * 2**20


async def test_globs_choose_among_the_models_that_the_upstream_lists() -> None:
    globbed = provider(transport=ScriptedTransport(body=MODELS), models=("gpt-*",))

    assert await globbed.list_models() == ["gpt-5"]
    assert globbed.is_allowed("gpt-6")
    assert not globbed.is_allowed("o9")


async def test_plain_names_need_no_question() -> None:
    transport = ScriptedTransport(status=404)

    assert await provider(transport=transport, models=("a", "b")).list_models() == ["a", "b"]
    assert transport.calls == []


@pytest.mark.parametrize(
    ("status", "body"), [(401, b"{}"), (200, b"<html>"), (200, b'{"data":5}'), (200, b"\xff")]
)
async def test_an_upstream_without_a_list_of_models_is_a_transport_error(
    status: int, body: bytes
) -> None:
    transport = ScriptedTransport(status, body)
    asked = provider(transport=transport)

    with pytest.raises(TransportError):
        await asked.list_models()
    transport.answer = Answer(200, {}, MODELS)
    assert await asked.list_models()
