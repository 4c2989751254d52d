from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from batchwright.tables import RowResult, extract, read_result

CHAT = "/v1/chat/completions"


def chat(message: dict[str, Any], **more: Any) -> RowResult:
    body = {"choices": [{"message": message, **more}], "usage": {"total_tokens": 9}}
    return extract(CHAT, json.dumps(body).encode())


def test_the_content_of_a_chat_is_the_answer() -> None:
    assert chat({"content": "fine\n"}) == RowResult(answer="fine\n", tokens=9)


def test_text_parts_are_joined() -> None:
    assert chat({"content": [{"type": "text", "text": "a"}, {"text": "b"}]}).answer == "ab"


def test_a_refusal_is_an_error() -> None:
    assert chat({"content": None, "refusal": "no"}) == RowResult(error="refused: no", tokens=9)


def test_tool_calls_are_json_text() -> None:
    calls = [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]

    assert json.loads(chat({"content": None, "tool_calls": calls}).answer or "") == calls


def test_an_empty_answer_says_why() -> None:
    assert "token limit" in (chat({"content": ""}, finish_reason="length").error or "")
    assert "filter" in (chat({"content": None}, finish_reason="content_filter").error or "")
    assert chat({"content": ""}, finish_reason="stop").answer == ""


def test_several_choices_are_a_list() -> None:
    body = {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}

    assert extract(CHAT, json.dumps(body).encode()).answer == '["a","b"]'


def test_the_text_of_a_response_is_the_answer() -> None:
    body = {
        "output": [
            {"type": "reasoning", "summary": []},
            {"type": "message", "content": [{"type": "output_text", "text": "fine"}]},
        ],
        "usage": {"input_tokens": 2, "output_tokens": 3},
    }

    assert extract("/v1/responses", json.dumps(body).encode()) == RowResult("fine", tokens=5)


def test_function_calls_and_refusals_of_a_response_are_told_apart() -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}

    called = extract("/v1/responses", json.dumps({"output": [call]}).encode())
    refused = extract("/v1/responses", json.dumps({"output": [refusal]}).encode())

    assert json.loads(called.answer or "") == [call]
    assert refused.error == "refused: no"


def test_a_completion_gives_its_text() -> None:
    assert extract("/v1/completions", b'{"choices":[{"text":"x"}]}').answer == "x"


def test_an_embedding_is_floats_or_base64() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()

    for value in ([0.5, -1], packed):
        body = json.dumps({"data": [{"embedding": value}], "usage": {"prompt_tokens": 3}})
        result = extract("/v1/embeddings", body.encode())
        assert result == RowResult(embedding=[0.5, -1.0], tokens=3)


def test_vectors_come_in_the_order_of_their_inputs() -> None:
    swapped = [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]

    assert (
        extract("/v1/embeddings", json.dumps({"data": swapped}).encode()).answer == "[[1.0],[2.0]]"
    )


def test_any_other_body_is_its_json_text() -> None:
    assert extract("/v1/moderations", b'{"results": [ 1 ]}').answer == '{"results": [ 1 ]}'


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"message":{"content":7}}]}', b"nul"]
)
def test_a_body_of_another_shape_is_an_error(body: bytes) -> None:
    result = extract(CHAT, body)

    assert result.answer is None
    assert "the answer is not" in (result.error or "")


@pytest.mark.parametrize("value", ["!!!", "AAA=", {"a": 1}, None])
def test_a_damaged_embedding_is_an_error(value: Any) -> None:
    body = json.dumps({"data": [{"embedding": value}]}).encode()

    assert "not of the shape" in (extract("/v1/embeddings", body).error or "")


def test_result_lines_are_taken_apart() -> None:
    good = {"response": {"status_code": 200, "body": {"choices": [{"message": {"content": "a"}}]}}}
    bad = {"response": {"status_code": 400, "body": {"error": {"message": "too long"}}}}
    lost = {"response": None, "error": {"code": "batch_expired", "message": "not run"}}

    results = [read_result(CHAT, json.dumps(line).encode()) for line in (good, bad, lost)]

    assert results == [
        RowResult(answer="a"),
        RowResult(error="400: too long"),
        RowResult(error="batch_expired: not run"),
    ]
    assert "cannot be read" in (read_result(CHAT, b"{").error or "")


def test_a_copy_tells_of_which_line_it_is() -> None:
    line = (
        b'{"response":{"status_code":200,"body":{"x":1}},"error":null,'
        b'"batchwright":{"route":"p/m","attempts":0,"copied_from":{"line":17}}}'
    )
    own = line.replace(b',"copied_from":{"line":17}', b"")

    assert read_result("/v1/rerank", line) == RowResult(answer='{"x":1}', copied_from=17)
    assert read_result("/v1/rerank", own).copied_from is None
