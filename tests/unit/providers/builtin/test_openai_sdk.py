"""The shapes, read by the official SDK: it gets what it expects, whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel

Asker = Any  # of conftest.py, which no test can import

HELLO: Any = [{"role": "user", "content": "Hello there, 世界!"}]


class EventBody(httpx2.AsyncByteStream):
    """The chunks of a streamed answer as a response body."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk


@pytest.fixture
async def sdk(asker: Asker) -> AsyncIterator[openai.AsyncOpenAI]:
    async def answer(request: httpx2.Request) -> httpx2.Response:
        call = asker.provider.prepare(request.url.path, await request.aread())
        async with asker.provider.transport.stream(call) as streamed:
            body = EventBody(streamed.chunks())
            return httpx2.Response(streamed.status, headers=streamed.headers, stream=body)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with openai.AsyncOpenAI(api_key="none", http_client=http, max_retries=0) as client:
        yield client


def unknown_fields(value: Any) -> list[str]:
    """The fields that the SDK's types do not have, anywhere inside."""
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(item)]
    if not isinstance(value, BaseModel):
        return []
    inner = [
        name for field in type(value).model_fields for name in unknown_fields(getattr(value, field))
    ]
    return [*(value.model_extra or {}), *inner]


async def test_a_chat_completion_validates(asker: Asker) -> None:
    body = await asker.chat("sentiment", "I love it")

    completion = ChatCompletion.model_validate(body, strict=True)

    assert completion.choices[0].message.content == "positive"
    assert unknown_fields(completion) == []


async def test_a_response_validates(asker: Asker) -> None:
    body = await asker.ok("/v1/responses", model="echo", input="hi", metadata={"a": "b"})

    response = Response.model_validate(body)

    assert response.output_text == "hi"
    assert response.metadata == {"a": "b"}
    assert unknown_fields(response) == ["store"]  # sent by OpenAI, not in the SDK's type


async def test_a_completion_validates(asker: Asker) -> None:
    body = await asker.ok("/v1/completions", model="echo", prompt="hi")

    completion = Completion.model_validate(body, strict=True)

    assert completion.choices[0].text == "hi"
    assert unknown_fields(completion) == []


async def test_embeddings_validate(asker: Asker) -> None:
    body = await asker.ok("/v1/embeddings", model="embedding", input="hi")

    embeddings = CreateEmbeddingResponse.model_validate(body, strict=True)

    assert len(embeddings.data[0].embedding) == 256
    assert unknown_fields(embeddings) == []


async def test_the_sdk_asks_for_base64_by_itself_and_decodes_it(sdk: openai.AsyncOpenAI) -> None:
    default = await sdk.embeddings.create(model="builtin/embedding", input="hi", dimensions=12)
    floats = await sdk.embeddings.create(
        model="builtin/embedding", input="hi", dimensions=12, encoding_format="float"
    )

    assert default.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-7)


async def test_the_sdk_streams_a_chat_completion(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="builtin/echo",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
    )

    chunks = [chunk async for chunk in stream]

    deltas = [chunk.choices[0].delta.content for chunk in chunks[:-1]]
    assert "".join(delta or "" for delta in deltas) == "Hello there, 世界!"
    assert len([delta for delta in deltas if delta]) > 3
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert unknown_fields(chunks) == []


async def test_the_sdk_streams_a_completion(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.completions.create(
        model="builtin/echo", prompt="one two three", max_tokens=2, stream=True
    )

    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert unknown_fields(chunks) == []


async def test_the_sdk_streams_a_response(sdk: openai.AsyncOpenAI) -> None:
    async with sdk.responses.stream(model="builtin/echo", input="one two three") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()

    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(11))
    assert final.output_text == "one two three"


async def test_a_streamed_response_cut_at_the_limit_ends_as_incomplete(
    sdk: openai.AsyncOpenAI,
) -> None:
    stream = await sdk.responses.create(
        model="builtin/echo", input="one two three", max_output_tokens=2, stream=True
    )

    events = [event async for event in stream]

    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == "one two"


async def test_a_wrong_streamed_request_is_an_error_before_the_stream(
    sdk: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(model="builtin/echo", messages=HELLO, n=3, stream=True)

    assert caught.value.param == "n"
    assert caught.value.code == "unsupported_value"


async def test_a_streamed_answer_sent_whole_is_the_same_bytes(asker: Asker) -> None:
    body = {"model": "echo", "messages": HELLO, "stream": True}
    call = asker.call("/v1/chat/completions", body)

    whole = await asker.provider.transport.send(call)
    async with asker.provider.transport.stream(call) as streamed:
        chunks = [chunk async for chunk in streamed.chunks()]

    assert whole.body == b"".join(chunks)
    assert whole.body.endswith(b"data: [DONE]\n\n")
    assert whole.headers["content-type"].startswith("text/event-stream")
    assert all(chunk.endswith(b"\n\n") for chunk in chunks)
