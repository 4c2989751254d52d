from __future__ import annotations

import json
from typing import Any

import pytest

from batchwright.domain.errors import Ambiguous, AnswerTooLarge
from batchwright.providers.base import Call, Transport
from batchwright.sandbox.answers import answer
from batchwright.sandbox.transport import SandboxTransport

BODY = {"model": "anything/at-all", "messages": [{"role": "user", "content": "hi"}]}


def call(body: Any = BODY, **changes: Any) -> Call:
    fields = {
        "method": "POST",
        "url": "https://api.example.com/base/v1/chat/completions",
        "headers": {},
        "body": body if isinstance(body, bytes) else json.dumps(body).encode(),
        "timeout_s": 10.0,
        "answer_bytes_max": 1_000_000,
    }
    return Call(**{**fields, **changes})


async def test_any_model_is_answered_without_a_network() -> None:
    transport: Transport = SandboxTransport(seed=3)

    got = await transport.send(call())

    assert (got.status, got.body) == answer("/v1/chat/completions", call().body, 3)
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-request-id"].startswith("req_")
    await transport.close()


async def test_a_stream_arrives_in_events_that_make_up_the_answer() -> None:
    streamed = call({**BODY, "stream": True, "stream_options": {"include_usage": True}})

    async with SandboxTransport().stream(streamed) as got:
        pieces = [piece async for piece in got.chunks()]

    events = [json.loads(piece.removeprefix(b"data: ")) for piece in pieces[:-1]]
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events if e["choices"])
    whole = json.loads(answer("/v1/chat/completions", streamed.body)[1])
    assert pieces[-1] == b"data: [DONE]\n\n"
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"] == whole["usage"]


async def test_a_bad_body_is_refused_in_one_piece_when_streaming() -> None:
    async with SandboxTransport().stream(call({"model": "m", "stream": True})) as got:
        pieces = [piece async for piece in got.chunks()]

    assert got.status == 400
    assert [json.loads(piece)["error"]["param"] for piece in pieces] == ["messages"]


async def test_the_caps_of_a_call_hold() -> None:
    with pytest.raises(AnswerTooLarge):
        await SandboxTransport().send(call(answer_bytes_max=10))
    with pytest.raises(Ambiguous):
        await SandboxTransport(latency="60s").send(call(timeout_s=0.0))


async def test_models_are_listed() -> None:
    url = "https://api.example.com/v1/models"
    got = await SandboxTransport().send(call(b"", url=url, method="GET"))

    assert "gpt-5-mini" in [model["id"] for model in json.loads(got.body)["data"]]
