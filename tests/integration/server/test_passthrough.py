"""Pass-through calls: what the provider says comes back, streams event by event."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import openai
import pytest

from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotSent
from batchwright.providers.base import Answer, Call
from batchwright.server import passthrough
from batchwright.server.settings import ServerSettings

from .conftest import MODEL, running_server

HELLO: Any = [{"role": "user", "content": "I love it"}]


def event(text: str) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def test_chat_embeddings_and_responses_of_the_builtin_models(server: Any) -> None:
    async with server.openai() as client:
        chat = await client.chat.completions.create(model="builtin/sentiment", messages=HELLO)
        vectors = await client.embeddings.create(
            model="builtin/embedding", input=["a", "b"], dimensions=8
        )
        response = await client.responses.create(model="builtin/sentiment", input="I hate it")

    assert chat.choices[0].message.content == "positive"
    assert [len(entry.embedding) for entry in vectors.data] == [8, 8]
    assert response.output_text == "negative"


async def test_the_body_goes_out_as_it_came_but_for_the_model(server: Any) -> None:
    body = b'{ "x": [1,  2.50], "model" : "played/org/model:v1", "messages": [] }'
    async with server.http() as http:
        await http.post("/v1/chat/completions", content=body)

    [call] = server.upstream.calls
    assert call.body == body.replace(b"played/org/model:v1", b"org/model:v1")
    assert call.url == "http://played.invalid/v1/chat/completions"


async def test_status_body_and_headers_of_the_provider_come_back(server: Any) -> None:
    sent = b'{"error": {"message": "slow down", "type": "x", "param": null, "code": "y"}}'

    def refuse(call: Call) -> Answer:
        headers = {
            "content-type": "application/json",
            "x-request-id": "req_theirs",
            "retry-after": "7",
            "x-ratelimit-remaining-requests": "0",
            "openai-processing-ms": "3",
            "set-cookie": "a=b",
            "connection": "close",
        }
        return Answer(429, headers, sent)

    server.upstream.answer = refuse
    async with server.http() as http:
        answer = await http.post("/v1/completions", json={"model": MODEL, "prompt": ""})

    assert (answer.status_code, answer.content) == (429, sent)
    assert answer.headers.get_list("x-request-id") == ["req_theirs"]
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["openai-processing-ms"] == "3"
    assert "set-cookie" not in answer.headers


async def test_the_first_event_arrives_before_the_second_is_sent(server: Any) -> None:
    async with server.openai() as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        seen = []
        for text in ("one", "two", "three"):
            server.upstream.events.put_nowait(event(text))
            chunk = await stream.__anext__()
            seen.append(chunk.choices[0].delta.content)
        server.upstream.events.put_nowait(b"data: [DONE]\n\n")
        server.upstream.events.put_nowait(None)
        rest = [chunk async for chunk in stream]

    assert seen == ["one", "two", "three"]
    assert rest == []


async def test_the_builtin_models_stream_to_their_done(server: Any) -> None:
    async with (
        server.http() as http,
        http.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "builtin/echo", "messages": HELLO, "stream": True},
        ) as answer,
    ):
        text = (await answer.aread()).decode()

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert text.endswith("data: [DONE]\n\n")


async def test_a_client_that_leaves_ends_the_call(server: Any) -> None:
    async with server.openai() as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        server.upstream.events.put_nowait(event("one"))
        await stream.__anext__()
        await stream.close()

    async with asyncio.timeout(5):
        await server.upstream.stream_closed.wait()


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_leaves_before_its_turn_makes_no_call(
    server: Any, is_streamed: bool
) -> None:
    server.upstream.gate.clear()
    async with server.http() as http:
        body = {"model": MODEL, "messages": HELLO}
        busy = [
            asyncio.create_task(http.post("/v1/chat/completions", json=body)) for _ in range(50)
        ]
        while len(server.upstream.calls) < 50:
            server.upstream.called.clear()
            await server.upstream.called.wait()
        async with server.http() as hasty:
            waiting = asyncio.create_task(
                hasty.post("/v1/chat/completions", json={**body, "stream": is_streamed})
            )
            lane = server.engine.router.find(MODEL).lane
            while not lane._live:
                await asyncio.sleep(0.001)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(5):
            while lane._live:
                await http.get("/healthz")
        server.upstream.gate.set()
        await asyncio.gather(*busy)
        last = await http.post("/v1/chat/completions", json=body)

    assert last.status_code == 200
    assert len(server.upstream.calls) == 51


async def test_the_live_calls_of_a_tenant_are_bounded_and_those_of_others_go_on(
    tmp_path: Any,
) -> None:
    settings = ServerSettings(live_calls_per_tenant=2)
    body = {"model": MODEL, "messages": HELLO}
    async with (
        running_server(tmp_path, settings) as server,
        server.http() as http,
        server.http("other") as other,
    ):
        server.upstream.gate.clear()
        busy = asyncio.create_task(http.post("/v1/chat/completions", json=body))
        await server.upstream.called.wait()
        streamed = http.stream("POST", "/v1/chat/completions", json={**body, "stream": True})
        async with streamed as stream:
            refused = await http.post("/v1/chat/completions", json=body)
            refused_stream = await http.post("/v1/chat/completions", json={**body, "stream": True})
            server.upstream.gate.set()
            passed = await other.post("/v1/chat/completions", json=body)
            server.upstream.events.put_nowait(None)
            await stream.aread()
        await busy
        again = await http.post("/v1/chat/completions", json=body)

    for answer in (refused, refused_stream):
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        assert "x-should-retry" not in answer.headers
        assert "2 live calls" in answer.json()["error"]["message"]
    assert (passed.status_code, again.status_code) == (200, 200)


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_call_counts_until_it_has_ended_at_the_provider_though_its_client_left(
    tmp_path: Any, is_streamed: bool
) -> None:
    settings = ServerSettings(live_calls_per_tenant=1)
    body = {"model": MODEL, "messages": HELLO}
    async with running_server(tmp_path, settings) as server, server.http() as http:
        server.upstream.gate.clear()
        async with server.http() as hasty:
            left = asyncio.create_task(
                hasty.post("/v1/chat/completions", json={**body, "stream": is_streamed})
            )
            await server.upstream.called.wait()
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
        lane = server.engine.router.find(MODEL).lane
        if is_streamed:  # closing it ends the call at once
            await server.upstream.stream_closed.wait()
        else:
            for _ in range(20):
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 429
        server.upstream.gate.set()
        async with asyncio.timeout(5):
            while lane.in_flight:
                await asyncio.sleep(0)
            while (await http.post("/v1/chat/completions", json=body)).status_code == 429:
                pass

    assert len(server.upstream.calls) == 2


async def test_the_bodies_of_the_live_calls_of_a_tenant_are_bounded(tmp_path: Any) -> None:
    settings = ServerSettings(live_bytes_per_tenant=1_000)
    body = {"model": MODEL, "prompt": "x" * 600}
    async with running_server(tmp_path, settings) as server, server.http() as http:
        server.upstream.gate.clear()
        busy = asyncio.create_task(http.post("/v1/completions", json=body))
        await server.upstream.called.wait()
        refused = await http.post("/v1/completions", json=body)
        server.upstream.gate.set()
        await busy
        again = await http.post("/v1/completions", json=body)

    assert refused.status_code == 429
    assert "1,000 bytes" in refused.json()["error"]["message"]
    assert again.status_code == 200


async def test_a_stream_that_breaks_off_ends_in_an_error(server: Any) -> None:
    async with server.openai() as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        server.upstream.events.put_nowait(event("one"))
        server.upstream.events.put_nowait(Ambiguous("reset"))
        await stream.__anext__()
        with pytest.raises(openai.APIError, match="broke off"):
            await stream.__anext__()


async def test_a_stream_above_the_limit_says_so_in_the_place_of_the_rest(server: Any) -> None:
    async with server.openai() as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        server.upstream.events.put_nowait(event("one"))
        server.upstream.events.put_nowait(AnswerTooLarge("the answer is larger than 9 bytes"))
        await stream.__anext__()
        with pytest.raises(openai.APIError, match="larger than 9 bytes") as told:
            await stream.__anext__()
    assert told.value.code == "response_too_large"


async def test_what_keeps_an_answer_away_is_502_without_names_of_hosts(server: Any) -> None:
    def unreachable(call: Call) -> Answer:
        raise NotSent("cannot connect to secret-host:9999")

    server.upstream.answer = unreachable
    async with server.http() as http:
        answer = await http.post("/v1/chat/completions", json={"model": MODEL, "messages": HELLO})

    assert answer.status_code == 502
    assert "secret-host" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"


async def test_an_answer_above_the_limit_is_told_and_not_to_be_asked_for_again(server: Any) -> None:
    def too_large(call: Call) -> Answer:
        raise AnswerTooLarge(f"the answer is larger than {call.answer_bytes_max} bytes")

    server.upstream.answer = too_large
    async with server.http() as http:
        answer = await http.post("/v1/chat/completions", json={"model": MODEL, "messages": HELLO})

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "response_too_large")
    assert "larger than 1048576 bytes" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"


async def test_a_redirect_is_told_and_not_handed_on(server: Any) -> None:
    for location, said in (
        ("https://elsewhere.example/v1/x", "elsewhere.example"),
        ("/v2/x", "another address of its own"),
        ("http://[", "another address of its own"),
    ):
        headers = {"location": location}
        server.upstream.answer = lambda call, headers=headers: Answer(302, headers, b"")
        async with server.http() as http:
            answer = await http.post("/v1/embeddings", json={"model": MODEL, "input": ""})

        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (502, "upstream_redirected")
        assert f"a redirect to {said}, which is not followed" in error["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert "location" not in answer.headers


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_refusal_of_the_servers_own_key_is_not_handed_on(
    server: Any, is_streamed: bool
) -> None:
    quoted = b'{"error": {"message": "Incorrect API key provided: sk-ours"}}'
    server.upstream.answer = lambda call: Answer(401, {"content-type": "application/json"}, quoted)
    server.upstream.stream_status, server.upstream.stream_type = 401, "application/json"
    server.upstream.events = asyncio.Queue()
    server.upstream.events.put_nowait(quoted)
    server.upstream.events.put_nowait(None)
    async with server.http() as http:
        answer = await http.post(
            "/v1/chat/completions", json={"model": MODEL, "stream": is_streamed}
        )

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_key_refused")
    assert answer.headers["x-should-retry"] == "false"
    assert b"sk-ours" not in answer.content


async def test_a_large_body_is_read_in_a_thread_and_goes_out_as_it_came(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    read = passthrough._read

    def noted(body: bytes) -> Any:
        threads.append(threading.get_ident())
        return read(body)

    monkeypatch.setattr(passthrough, "_read", noted)
    bodies = [b'{"model":"%b","x":"%b"}' % (MODEL.encode(), b"x" * size) for size in (9, 2**20)]
    async with server.http() as http:
        for body in bodies:
            await http.post("/v1/chat/completions", content=body)

    assert [call.body for call in server.upstream.calls] == bodies
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_page_becomes_an_error_body(server: Any, is_streamed: bool) -> None:
    page = b"<html><script>alert(1)</script>"
    for status, told in ((200, 502), (403, 403), (503, 503)):
        headers = {"content-type": "text/html; charset=utf-8", "retry-after": "3"}
        refused = Answer(status, headers, page)
        server.upstream.answer = lambda call, answer=refused: answer
        server.upstream.stream_status, server.upstream.stream_type = status, "text/html"
        server.upstream.events = asyncio.Queue()
        server.upstream.events.put_nowait(page)
        server.upstream.events.put_nowait(None)
        async with server.http() as http:
            answer = await http.post(
                "/v1/chat/completions", json={"model": MODEL, "stream": is_streamed}
            )

        assert answer.status_code == told
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert ("alert" in answer.json()["error"]["message"]) is (status != 200)


async def test_what_an_endpoint_may_answer_is_handed_on_and_not_guessed_at(server: Any) -> None:
    for kind in (
        "application/json; charset=utf-8",
        "application/problem+json",
        "audio/mpeg",
        "image/png",
        "application/octet-stream",
    ):
        server.upstream.answer = lambda call, kind=kind: Answer(200, {"content-type": kind}, b"{}")
        async with server.http() as http:
            answer = await http.post("/v1/chat/completions", json={"model": MODEL})

        assert (answer.status_code, answer.content) == (200, b"{}")
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_wrong_bodies_are_refused_here(server: Any) -> None:
    async with server.http() as http:
        for content, status, param, code in (
            (b"{", 400, None, None),
            (b"[]", 400, None, "invalid_type"),
            (b'{"model": 1}', 400, "model", "invalid_type"),
            (b'{"model": "x", "stream": "yes"}', 400, "stream", "invalid_type"),
            (b"{}", 400, "model", "missing_required_parameter"),
            (b'{"model": "nobody-has-it"}', 404, "model", "model_not_found"),
            (b'{"model": "test-model", "model": "other"}', 400, "model", None),
            (b'{"model": "test-model", "x": 1, "\\u0078": 2}', 400, "x", None),
            (b'{"model": "test-model", "x": 1e400}', 400, None, None),
            (b'{"model": "test-model", "x": NaN}', 400, None, None),
            (b'{"model": "test-model", "x": "\\ud800"}', 400, None, None),
            (b'{"model": "test-model", "x": "\xff"}', 400, None, None),
            (b'{"model": "test-model", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}", 400, None, None),
            (b"", 400, None, None),
        ):
            answer = await http.post("/v1/chat/completions", content=content)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
        large = await http.post("/v1/embeddings", content=b"x" * (16 * 2**20 + 1))

    assert large.status_code == 413
    assert server.upstream.calls == []


async def test_extra_endpoints_are_opened_by_settings(tmp_path: Any) -> None:
    body = {"model": MODEL, "prompt": "a cat"}
    settings = ServerSettings(extra_endpoints=("/v1/images/generations", "/v1/rerank"))
    async with running_server(tmp_path, settings) as server, server.http() as http:
        images = await http.post("/v1/images/generations", json=body)
        closed = await http.post("/v1/images/edits", json=body)

    assert images.status_code == 200
    assert closed.status_code == 404
