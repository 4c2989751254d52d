from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    ImagesResponse,
    ModerationCreateResponse,
    Video,
)
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from batchwright.sandbox.answers import answer, compose, encode, is_endpoint, request_hash
from batchwright.sandbox.quick import quick_chat
from batchwright.sandbox.structured import example
from batchwright.server.settings import BATCH_ENDPOINTS

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]


def ask(path: str, body: dict[str, Any], seed: int = 0) -> tuple[int, dict[str, Any]]:
    status, raw = answer(path, json.dumps(body).encode(), seed)
    return status, json.loads(raw)


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        (CHAT, {"messages": HELLO, "n": 3}, ChatCompletion),
        ("/v1/completions", {"prompt": ["a", "b"]}, Completion),
        ("/v1/embeddings", {"input": "a text", "dimensions": 8}, CreateEmbeddingResponse),
        ("/v1/responses", {"input": "hi", "instructions": "be brief"}, Response),
        ("/v1/moderations", {"input": ["a", "b"]}, ModerationCreateResponse),
        ("/v1/images/generations", {"prompt": "a cat", "n": 2}, ImagesResponse),
        ("/v1/images/edits", {"prompt": "greener", "size": "1024x1536"}, ImagesResponse),
        ("/v1/videos", {"prompt": "a cat", "seconds": "8"}, Video),
    ],
)
def test_every_answer_has_the_shape_that_the_sdk_declares_and_is_marked(
    path: str, body: dict[str, Any], shape: Any
) -> None:
    status, payload = ask(path, {"model": "gpt-4o-mini", **body})

    assert status == 200
    shape.model_validate(payload, strict=True)
    assert payload["system_fingerprint"] == "sandbox"


def test_a_picture_is_a_png_of_one_pixel_by_url_for_the_models_that_give_one() -> None:
    asked = {"prompt": "a cat", "n": 2}
    by_bytes = ask("/v1/images/generations", {"model": "gpt-image-1", **asked})[1]["data"]
    by_url = ask("/v1/images/generations", {"model": "dall-e-3", **asked})[1]["data"]

    pictures = [base64.b64decode(each["b64_json"]) for each in by_bytes]
    assert [_png_pixels(picture) for picture in pictures] == [(1, 1, 4), (1, 1, 4)]
    assert pictures[0] != pictures[1]
    assert [each["url"].rpartition("-")[2] for each in by_url] == ["0.png", "1.png"]


def _png_pixels(picture: bytes) -> tuple[int, int, int]:
    """Width, height and bytes of the rows of a PNG whose chunks all check."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, rest = dict[bytes, bytes](), picture[8:]
    while rest:
        (length,) = struct.unpack(">I", rest[:4])
        kind, data, check = rest[4:8], rest[8 : 8 + length], rest[8 + length : 12 + length]
        assert check == struct.pack(">I", zlib.crc32(kind + data))
        chunks[kind], rest = data, rest[12 + length :]
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    return width, height, len(zlib.decompress(chunks[b"IDAT"]))


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/images/generations", {}, "prompt"),
        ("/v1/images/generations", {"prompt": ""}, "prompt"),
        ("/v1/images/edits", {"prompt": "a", "n": 11}, "n"),
        ("/v1/videos", {"prompt": 3}, "prompt"),
    ],
)
def test_pictures_and_videos_that_cannot_be_made_are_refused(
    path: str, body: dict[str, Any], param: str
) -> None:
    status, payload = ask(path, body)

    assert (status, payload["error"]["param"]) == (400, param)


@pytest.mark.parametrize("endpoint", BATCH_ENDPOINTS)
def test_each_endpoint_of_a_batch_can_be_rehearsed(endpoint: str) -> None:
    assert is_endpoint(endpoint)


def test_an_answer_follows_from_path_body_and_seed_alone() -> None:
    body = {"model": "m", "messages": HELLO}

    assert ask(CHAT, body) == ask(CHAT, body)
    assert ask(CHAT, body) != ask(CHAT, body, seed=1)
    assert ask(CHAT, body)[1]["id"] != ask(CHAT, {**body, "user": "u"})[1]["id"]


def test_usage_adds_up_and_grows_with_the_prompt() -> None:
    small = ask(CHAT, {"model": "m", "messages": HELLO})[1]["usage"]
    long = [{"role": "user", "content": "word " * 2000}]
    large = ask(CHAT, {"model": "m", "messages": long})[1]["usage"]

    for usage in (small, large):
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert large["prompt_tokens"] == 2507
    assert large["prompt_tokens_details"]["cached_tokens"] == 1152
    assert small["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_cap_cuts_the_text_and_says_so() -> None:
    body = {"model": "m", "messages": HELLO, "max_completion_tokens": 5}
    payload = ask(CHAT, body)[1]

    assert payload["choices"][0]["finish_reason"] == "length"
    assert payload["usage"]["completion_tokens"] == 5


def test_reasoning_models_refuse_what_openai_refuses() -> None:
    capped = ask(CHAT, {"model": "gpt-5-mini", "messages": HELLO, "max_tokens": 5})
    cold = ask(CHAT, {"model": "o3", "messages": HELLO, "temperature": 0})

    assert (capped[0], capped[1]["error"]["code"]) == (400, "unsupported_parameter")
    assert (cold[0], cold[1]["error"]["param"]) == (400, "temperature")
    assert ask(CHAT, {"model": "gpt-4o", "messages": HELLO, "max_tokens": 5})[0] == 200


@given(
    model=st.sampled_from(["gpt-4o-mini", 'odd "name"\n', "gpt-5", "sandbox/hang", "ü"]),
    contents=st.lists(st.text() | st.none(), max_size=3),
    extra=st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.integers(0, 40),
            "max_completion_tokens": st.none() | st.integers(0, 40),
            "temperature": st.floats(-1, 3, allow_nan=False),
            "n": st.integers(1, 2),
            "stream": st.booleans(),
        },
    ),
)
def test_the_quick_answer_is_the_answer(
    model: str, contents: list[str | None], extra: dict[str, Any]
) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    body = json.dumps({"model": model, "messages": messages, **extra}).encode()
    digest = request_hash(CHAT, body)
    composed = compose(CHAT, body, digest)

    quick = quick_chat(body, digest)

    assert quick is None or (composed.status == 200 and quick == encode(composed.payload))


def test_a_plain_chat_takes_the_quick_way() -> None:
    body = json.dumps({"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 9}).encode()

    assert quick_chat(body, request_hash(CHAT, body)) is not None


def test_an_embedding_is_of_unit_length_and_independent_of_its_neighbours() -> None:
    alone = ask("/v1/embeddings", {"model": "e", "input": "b"})[1]["data"][0]["embedding"]
    both = ask("/v1/embeddings", {"model": "e", "input": ["a", "b"]})[1]["data"]

    assert [row["index"] for row in both] == [0, 1]
    assert both[1]["embedding"] == alone != both[0]["embedding"]
    assert len(alone) == 1536
    assert math.isclose(sum(x * x for x in alone), 1, rel_tol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 255, 256, 3072])
def test_a_vector_of_any_size_is_of_unit_length_and_the_same_in_base64(size: int) -> None:
    body = {"model": "e", "input": [1, 2, 3], "dimensions": size}
    floats = ask("/v1/embeddings", body)[1]["data"][0]["embedding"]
    packed = ask("/v1/embeddings", {**body, "encoding_format": "base64"})[1]["data"][0]

    assert len(floats) == size
    assert math.isclose(sum(x * x for x in floats), 1, rel_tol=1e-5)
    assert list(struct.unpack(f"<{size}f", base64.b64decode(packed["embedding"]))) == floats


def test_texts_have_vectors_of_their_own_as_far_from_each_other_as_chance_has_it() -> None:
    body = {"model": "e", "input": [f"text {n}" for n in range(200)], "dimensions": 64}
    vectors = [row["embedding"] for row in ask("/v1/embeddings", body)[1]["data"]]
    others = [sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:]]

    assert len(dict.fromkeys(map(tuple, vectors))) == 200
    assert max(map(abs, others)) < 0.6


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (CHAT, {"model": "m"}, "messages", "missing_required_parameter"),
        (CHAT, {"messages": HELLO}, "model", "missing_required_parameter"),
        (CHAT, {"model": 7, "messages": HELLO}, "model", "invalid_type"),
        (CHAT, {"model": "m", "messages": []}, "messages", "empty_array"),
        (CHAT, {"model": "m", "messages": [{"content": 1}]}, "messages[0].content", "invalid_type"),
        (CHAT, {"model": "m", "messages": HELLO, "n": 0}, "n", "integer_below_min_value"),
        (CHAT, {"model": "m", "messages": HELLO, "temperature": 2.5}, "temperature",
         "decimal_above_max_value"),
        ("/v1/embeddings", {"model": "m", "input": ["a", ""]}, "input", None),
        ("/v1/embeddings", {"model": "m", "input": "a", "encoding_format": "hex"},
         "encoding_format", "invalid_value"),
        ("/v1/embeddings", {"model": "m", "input": ["a"] * 2049}, "input",
         "array_above_max_length"),
        ("/v1/embeddings", {"model": "m", "input": "a" * 40_000}, None, None),
        ("/v1/completions", {"model": "m", "prompt": [1, "a"]}, "prompt", None),
        ("/v1/responses", {"model": "m"}, "input", "missing_required_parameter"),
    ],
)  # fmt: skip
def test_a_bad_body_gets_openais_400(
    path: str, body: dict[str, Any], param: str | None, code: str | None
) -> None:
    status, payload = ask(path, body)

    assert status == 400
    assert payload["error"].keys() == {"message", "type", "param", "code"}
    assert payload["error"]["type"] == "invalid_request_error"
    assert (payload["error"]["param"], payload["error"]["code"]) == (param, code)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"\xff"}', b"null"])
def test_what_is_no_json_object_gets_400(body: bytes) -> None:
    assert answer(CHAT, body)[0] == 400


def test_an_unknown_path_gets_404() -> None:
    status, raw = answer("/v1/nothing", b"{}")

    assert status == 404
    assert json.loads(raw)["error"]["message"] == "Invalid URL (POST /v1/nothing)"


SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "parent": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    },
    "required": ["label", "score", "tags", "parent"],
}


def test_structured_output_fits_its_schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    payload = ask(CHAT, {"model": "m", "messages": HELLO, "response_format": form})[1]

    value = json.loads(payload["choices"][0]["message"]["content"])

    assert value["label"] in ("good", "bad")
    assert value["score"] == 1
    assert value["tags"] == ["sandbox", "sandbox"]


def test_a_json_object_is_answered_with_json() -> None:
    body = {"model": "m", "messages": HELLO, "response_format": {"type": "json_object"}}

    content = ask(CHAT, body)[1]["choices"][0]["message"]["content"]

    assert json.loads(content)["sandbox"] is True


def test_a_demanded_tool_is_called_with_fitting_arguments() -> None:
    tool = {"type": "function", "function": {"name": "rate", "parameters": SCHEMA}}
    body = {"model": "m", "messages": HELLO, "tools": [tool], "tool_choice": "required"}

    choice = ask(CHAT, body)[1]["choices"][0]

    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]["function"]
    assert call["name"] == "rate"
    assert json.loads(call["arguments"])["score"] == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
        {"type": "array", "minItems": 10**9},
        {"properties": 3},
        {"$ref": "#/nowhere/else"},
        {"type": "array", "minItems": "many"},
    ],
)
def test_an_endless_or_malformed_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema"):
        example(schema, 0)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, 0.5),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "minimum": 3, "multipleOf": 5}, 5),
        ({"type": "string", "format": "date"}, "2026-01-01"),
        ({"type": "string", "maxLength": 3}, "san"),
        ({"type": ["string", "null"]}, "sandbox"),
        ({"const": 4}, 4),
        ({"type": "object"}, {}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}, None),
    ],
)
def test_a_schema_gets_a_value_within_its_bounds(schema: dict[str, Any], value: Any) -> None:
    assert example(schema, 0) == value
