from __future__ import annotations

import asyncio
import base64
import json
import struct
import threading
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from batchwright.domain.errors import Ambiguous, AnswerTooLarge, NotSent
from batchwright.providers.base import Provider, Transport
from batchwright.providers.builtin import BuiltinProvider, BuiltinTransport, models, transport

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"

Asker = Any  # of conftest.py, which no test can import


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


async def test_it_is_a_provider_with_its_transport(asker: Asker) -> None:
    provider: Provider = asker.provider
    transport: Transport = provider.transport

    assert (provider.name, provider.kind) == ("builtin", "builtin")
    assert transport is asker.provider.transport
    assert await provider.list_models() == [
        "builtin/sentiment",
        "builtin/embedding",
        "builtin/echo",
    ]


@pytest.mark.parametrize("model", ["sentiment", "builtin/sentiment"])
async def test_a_model_is_known_with_and_without_prefix(asker: Asker, model: str) -> None:
    answer = await asker.chat(model, "I love it!")

    assert answer["model"] == "builtin/sentiment"
    assert answer["choices"][0]["message"]["content"] == "positive"


async def test_the_last_user_message_is_what_is_answered(asker: Asker) -> None:
    messages = [
        {"role": "system", "content": "Classify."},
        {"role": "user", "content": "Awful, I hate it."},
        {"role": "assistant", "content": None, "tool_calls": []},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Now"}, {"type": "text", "text": "I"}],
        },
        {"role": "assistant", "content": "Yes?"},
    ]

    answer = await asker.ok(CHAT, model="echo", messages=messages)

    assert answer["choices"][0]["message"]["content"] == "Now\nI"


async def test_responses_take_a_text_or_messages(asker: Asker) -> None:
    parts = [{"type": "input_text", "text": "hello"}]
    typed = [{"type": "message", "role": "user", "content": parts}]

    for given in ("hello", user("hello"), typed):
        answer = await asker.ok(RESPONSES, model="echo", input=given, instructions="Echo.")
        assert answer["output"][0]["content"][0]["text"] == "hello"
        assert answer["instructions"] == "Echo."


async def test_completions_take_a_text_or_a_list_of_one(asker: Asker) -> None:
    for prompt in ("hello", ["hello"]):
        answer = await asker.ok(COMPLETIONS, model="echo", prompt=prompt)
        assert answer["choices"][0]["text"] == "hello"


async def test_usage_counts_the_tokens_of_all_messages_and_of_the_answer(asker: Asker) -> None:
    messages = [{"role": "system", "content": "Be kind."}, *user("one two three")]

    chat = await asker.ok(CHAT, model="echo", messages=messages)
    response = await asker.ok(RESPONSES, model="echo", input="one two three")
    vectors = await asker.ok(EMBEDDINGS, model="embedding", input=["one two", "three"])

    assert chat["usage"]["prompt_tokens"] == 3 + 3 + 3 + 3
    assert chat["usage"]["completion_tokens"] == 3
    assert chat["usage"]["total_tokens"] == 15
    assert response["usage"]["input_tokens"] == 6
    assert response["usage"]["output_tokens"] == 3
    assert vectors["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_is_cut_at_the_token_limit(asker: Asker, name: str) -> None:
    answer = await asker.chat("echo", "one two three", **{name: 2})

    assert answer["choices"][0]["message"]["content"] == "one two"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


async def test_an_answer_of_just_the_limit_is_not_cut(asker: Asker) -> None:
    answer = await asker.chat("echo", "one two three", max_tokens=3)

    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_a_response_cut_at_the_limit_is_incomplete(asker: Asker) -> None:
    answer = await asker.ok(RESPONSES, model="echo", input="one two three", max_output_tokens=1)

    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("stop", ["three", ["nine", "three", "four"], [" three"]])
async def test_an_answer_ends_before_the_first_stop_sequence(asker: Asker, stop: Any) -> None:
    answer = await asker.chat("echo", "one two three four", stop=stop)

    assert answer["choices"][0]["message"]["content"].rstrip() == "one two"
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_the_usual_parameters_are_accepted(asker: Asker) -> None:
    usual = {
        "temperature": 0,
        "top_p": 0.5,
        "n": 1,
        "seed": 7,
        "user": "u",
        "metadata": {"a": "b"},
        "response_format": {"type": "text"},
        "presence_penalty": 1.5,
        "frequency_penalty": None,
        "logit_bias": {},
        "logprobs": False,
        "tools": [],
        "tool_choice": "none",
        "service_tier": "auto",
        "store": False,
        "max_tokens": None,
        "stream": False,
    }

    answer = await asker.chat("echo", "hello", **usual)

    assert answer["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize(
    ("param", "value", "code"),
    [
        ("temperature", 2.5, "decimal_above_max_value"),
        ("temperature", "hot", "invalid_type"),
        ("temperature", True, "invalid_type"),
        ("top_p", -1, "decimal_below_min_value"),
        ("max_tokens", 0, "integer_below_min_value"),
        ("max_tokens", 1.5, "invalid_type"),
        ("n", 2, "unsupported_value"),
        ("n", True, "unsupported_value"),
        ("tools", [{"type": "function"}], "unsupported_value"),
        ("logprobs", True, "unsupported_value"),
        ("response_format.type", "json_object", "unsupported_value"),
        ("stop", ["a", "b", "c", "d", "e"], "array_above_max_length"),
        ("stop", 5, "invalid_type"),
        ("metadata.k", 5, "invalid_type"),
        ("metadata", {str(n): "" for n in range(17)}, "object_above_max_properties"),
        ("service_tier", "gold", "invalid_value"),
        ("stream", "yes", "invalid_type"),
        ("audio", {}, "unsupported_parameter"),
        ("top_logprobs", 3, "unsupported_parameter"),
        ("tempreature", 1, "unknown_parameter"),
    ],
)
async def test_a_parameter_that_cannot_be_heeded_is_named(
    asker: Asker, param: str, value: Any, code: str
) -> None:
    name, _, key = param.partition(".")
    given = {name: {key: value} if key else value}

    error = await asker.error(CHAT, model="echo", messages=user("hi"), **given)

    assert (error["param"], error["code"]) == (param, code)
    assert f"'{param}'" in error["message"] or repr(value) in error["message"]


@pytest.mark.parametrize(
    ("url", "body", "param", "code"),
    [
        (CHAT, {}, "messages", "missing_required_parameter"),
        (CHAT, {"messages": "hi"}, "messages", "invalid_type"),
        (CHAT, {"messages": []}, "messages", "empty_array"),
        (CHAT, {"messages": ["hi"]}, "messages[0]", "invalid_type"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        (
            CHAT,
            {"messages": [{"role": "boss", "content": ""}]},
            "messages[0].role",
            "invalid_value",
        ),
        (
            CHAT,
            {"messages": [{"role": ["user"], "content": ""}]},
            "messages[0].role",
            "invalid_value",
        ),
        (CHAT, {"messages": user(None)}, "messages[0].content", "missing_required_parameter"),
        (CHAT, {"messages": user(5)}, "messages[0].content", "invalid_type"),
        (CHAT, {"messages": user(["x"])}, "messages[0].content[0]", "invalid_type"),
        (
            CHAT,
            {"messages": user([{"type": "image_url", "image_url": {"url": "x"}}])},
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            CHAT,
            {"messages": user([{"type": "text"}])},
            "messages[0].content[0].text",
            "invalid_type",
        ),
        (CHAT, {"messages": [{"role": "system", "content": "x"}]}, "messages", "invalid_value"),
        (
            CHAT,
            {"messages": user("x"), "stream_options": {"include_usage": True}},
            "stream_options",
            "invalid_value",
        ),
        (RESPONSES, {}, "input", "missing_required_parameter"),
        (RESPONSES, {"input": [{"type": "item_reference"}]}, "input[0].type", "invalid_value"),
        (
            RESPONSES,
            {"input": "x", "previous_response_id": "resp_1"},
            "previous_response_id",
            "unsupported_parameter",
        ),
        (RESPONSES, {"input": "x", "background": True}, "background", "unsupported_value"),
        (
            RESPONSES,
            {"input": "x", "text": {"format": {"type": "json_schema"}}},
            "text.format.type",
            "unsupported_value",
        ),
        (COMPLETIONS, {}, "prompt", "missing_required_parameter"),
        (COMPLETIONS, {"prompt": [1, 2]}, "prompt", "invalid_type"),
        (COMPLETIONS, {"prompt": "x", "best_of": 3}, "best_of", "unsupported_value"),
    ],
)
async def test_a_wrong_body_is_refused_naming_the_field(
    asker: Asker, url: str, body: dict[str, Any], param: str, code: str
) -> None:
    error = await asker.error(url, model="echo", **body)

    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": []}, "input", "empty_array"),
        ({"input": ["x"] * 2049}, "input", "array_above_max_length"),
        ({"input": [1, 2, 3]}, "input", "unsupported_value"),
        ({"input": [[1, 2], [3]]}, "input", "unsupported_value"),
        ({"input": ["x", None]}, "input[1]", "invalid_type"),
        ({"input": {"text": "x"}}, "input", "invalid_type"),
        ({"input": "word " * 8193}, "input", "context_length_exceeded"),
        ({"input": "x", "dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"input": "x", "dimensions": 1537}, "dimensions", "integer_above_max_value"),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"input": "x", "temperature": 1}, "temperature", "unknown_parameter"),
    ],
)
async def test_a_wrong_embedding_request_is_refused_naming_the_field(
    asker: Asker, body: dict[str, Any], param: str, code: str
) -> None:
    error = await asker.error(EMBEDDINGS, model="embedding", **body)

    assert (error["param"], error["code"]) == (param, code)


async def test_vectors_come_in_the_order_of_the_inputs(asker: Asker) -> None:
    both = await asker.ok(EMBEDDINGS, model="embedding", input=["red", "blue"], dimensions=8)
    blue = await asker.ok(EMBEDDINGS, model="builtin/embedding", input="blue", dimensions=8)

    assert [item["index"] for item in both["data"]] == [0, 1]
    assert both["data"][1]["embedding"] == blue["data"][0]["embedding"]
    assert both["object"] == "list"
    assert both["model"] == "builtin/embedding"


async def test_base64_and_floats_are_the_same_vector(asker: Asker) -> None:
    body = {"model": "embedding", "input": "a kettle"}

    floats = await asker.ok(EMBEDDINGS, **body)
    coded = await asker.ok(EMBEDDINGS, **body, encoding_format="base64")

    vector = floats["data"][0]["embedding"]
    decoded = struct.unpack("<256f", base64.b64decode(coded["data"][0]["embedding"]))
    assert decoded == pytest.approx(vector, abs=1e-7)


async def test_an_unknown_model_is_not_found(asker: Asker) -> None:
    error = await asker.error(CHAT, status=404, model="builtin/gpt-9", messages=user("hi"))

    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "builtin/sentiment, builtin/embedding, builtin/echo" in error["message"]


@pytest.mark.parametrize(("model", "url"), [("echo", EMBEDDINGS), ("embedding", CHAT)])
async def test_a_model_does_not_answer_another_models_endpoint(
    asker: Asker, model: str, url: str
) -> None:
    error = await asker.error(url, model=model, input="x")

    assert (error["param"], error["code"]) == ("model", "unsupported_endpoint")


async def test_an_endpoint_that_no_builtin_model_has_is_not_found(asker: Asker) -> None:
    error = await asker.error("/v1/moderations", status=404, model="echo", input="x")

    assert "POST /v1/moderations" in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"\xff"', b"[" * 20_000, b'{"a":NaN}'])
async def test_a_body_that_is_no_json_object_is_refused(asker: Asker, body: bytes) -> None:
    answer = await asker.provider.transport.send(asker.provider.prepare(CHAT, body))

    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] is None


@pytest.mark.parametrize("model", [None, 5])
async def test_a_body_without_a_model_name_is_refused(asker: Asker, model: Any) -> None:
    error = await asker.error(CHAT, model=model, messages=user("hi"))

    assert error["param"] == "model"


async def test_a_text_too_long_for_sentiment_is_refused(asker: Asker) -> None:
    error = await asker.error(CHAT, model="sentiment", messages=user("ok. " * 17_000))

    assert "65,536" in error["message"]


async def test_the_same_request_gets_the_same_answer(asker: Asker) -> None:
    call = asker.call(CHAT, {"model": "echo", "messages": user("hi")})

    one = await asker.provider.transport.send(call)
    again = await asker.provider.transport.send(call)
    other = await asker.chat("echo", "ho")

    assert one == again
    assert json.loads(one.body)["id"] != other["id"]
    assert json.loads(one.body)["created"] == 1_760_000_000
    assert one.headers["x-request-id"].startswith("req_")


async def test_only_post_is_answered(asker: Asker) -> None:
    call = structs.replace(asker.call(CHAT, {}), method="GET")

    answer = await asker.provider.transport.send(call)

    assert answer.status == 404


async def test_an_answer_past_the_byte_cap_is_refused(asker: Asker) -> None:
    call = structs.replace(
        asker.call(CHAT, {"model": "echo", "messages": user("hi")}), answer_bytes_max=10
    )

    with pytest.raises(AnswerTooLarge):
        await asker.provider.transport.send(call)
    with pytest.raises(AnswerTooLarge):
        async with asker.provider.transport.stream(call) as answer:
            [chunk async for chunk in answer.chunks()]


async def test_large_and_slow_calls_run_beside_the_event_loop(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {}

    def note_thread(text: str) -> str:
        names[len(text)] = threading.current_thread().name
        return text

    for name, model in models._BY_NAME.items():
        if model.reply:
            monkeypatch.setitem(models._BY_NAME, name, replace(model, reply=note_thread))
    await asker.chat("echo", "x" * 10)
    await asker.chat("echo", "x" * 5_000)
    await asker.chat("sentiment", "x" * 20)

    assert names[10] == "MainThread"
    assert names[5_000].startswith("builtin")
    assert names[20].startswith("builtin")


async def test_many_small_inputs_are_embedded_beside_the_event_loop(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    body_of = transport.embedding_body

    def note_thread(request: Any) -> Any:
        names.append(threading.current_thread().name.partition("_")[0])
        return body_of(request)

    monkeypatch.setattr(transport, "embedding_body", note_thread)
    for inputs in (3, 200):
        body = {"model": "builtin/embedding", "input": ["a"] * inputs}
        encoded = json.dumps(body, separators=(",", ":")).encode()
        assert len(encoded) <= transport.INLINE_BYTES_MAX
        call = asker.provider.prepare("/v1/embeddings", encoded)
        await asker.provider.transport.send(call)

    assert names == ["MainThread", "builtin"]


async def test_a_call_that_takes_longer_than_its_timeout_is_ambiguous(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def wait(text: str) -> str:
        release.wait()
        return text

    name = "builtin/sentiment"
    monkeypatch.setitem(models._BY_NAME, name, replace(models._BY_NAME[name], reply=wait))
    call = asker.call(CHAT, {"model": name, "messages": user("hi")})

    with pytest.raises(Ambiguous, match=r"within 0\.01 s"):
        await asker.provider.transport.send(structs.replace(call, timeout_s=0.01))
    release.set()


async def test_many_calls_at_once_each_get_their_own_answer(asker: Asker) -> None:
    texts = [f"number {n} " * (1 + n % 40 * 10) for n in range(120)]

    answers = await asyncio.gather(*(asker.chat("echo", text) for text in texts))

    assert [answer["choices"][0]["message"]["content"] for answer in answers] == texts


async def test_a_closed_transport_sends_nothing_and_closes_twice() -> None:
    transport = BuiltinTransport(wall_clock=lambda: 0.0)
    provider = BuiltinProvider(transport)

    await transport.close()
    await transport.close()

    with pytest.raises(NotSent):
        await transport.send(provider.prepare(CHAT, b"{}"))
