from __future__ import annotations

import base64
import json
from array import array

import pytest

from batchwright.client.errors import RequestFailure
from batchwright.client.items import answer_of, body_of, encode, plain_endpoint, tokens_of
from batchwright.domain.errors import UsageError


def test_a_string_becomes_the_user_message_and_nothing_is_added() -> None:
    body = body_of("hello", model="m")

    assert body == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_the_system_prompt_comes_first_and_parameters_go_in_as_given() -> None:
    body = body_of("hello", model="m", system_prompt="be short", params={"temperature": 0})

    assert body["messages"][0] == {"role": "system", "content": "be short"}
    assert body["messages"][1] == {"role": "user", "content": "hello"}
    assert body["temperature"] == 0


def test_a_list_of_messages_is_the_conversation() -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    assert body_of(messages, model="m")["messages"] == messages


@pytest.mark.parametrize(
    "item",
    [
        {"id": 7, "content": "hello", "temperature": 1},
        {"id": 7, "messages": [{"role": "user", "content": "hello"}], "temperature": 1},
        {"id": 7, "role": "user", "content": "hello", "temperature": 1},
    ],
)
def test_a_dict_has_its_own_fields_which_win(item: object) -> None:
    body = body_of(item, model="m", params={"temperature": 0})

    assert body == {
        "model": "m",
        "temperature": 1,
        "messages": [{"role": "user", "content": "hello"}],
    }


@pytest.mark.parametrize("item", [None, 3, 1.5, [], {"id": 1, "text": "x"}, [1, 2]])
def test_another_form_is_refused_with_the_forms_there_are(item: object) -> None:
    with pytest.raises(UsageError, match="an item must be a string"):
        body_of(item, model="m")


def test_a_missing_model_is_refused() -> None:
    with pytest.raises(UsageError, match="model"):
        body_of("hello")


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [("/embeddings", "input"), ("/responses", "input"), ("/images/generations", "prompt")],
)
def test_other_endpoints_have_a_field_for_the_text(endpoint: str, field: str) -> None:
    assert body_of("hello", endpoint=endpoint, model="m") == {"model": "m", field: "hello"}


def test_an_unknown_endpoint_takes_bodies_but_no_plain_text() -> None:
    assert body_of({"query": "q"}, endpoint="/rerank", model="m") == {"model": "m", "query": "q"}
    with pytest.raises(UsageError, match="body="):
        body_of("hello", endpoint="/rerank", model="m")


def test_responses_take_the_system_prompt_as_instructions() -> None:
    body = body_of("hello", endpoint="/responses", model="m", system_prompt="be short")

    assert body["instructions"] == "be short"


@pytest.mark.parametrize("endpoint", ["/v1/embeddings", "embeddings", "/embeddings"])
def test_endpoints_are_understood_in_every_spelling(endpoint: str) -> None:
    assert plain_endpoint(endpoint) == "/embeddings"


@pytest.mark.parametrize("value", [float("nan"), "\ud800", object()])
def test_what_is_not_json_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        encode({"value": value})


def test_encoding_keeps_every_character() -> None:
    assert json.loads(encode({"a": "ä\u2028\n"})) == {"a": "ä\u2028\n"}


def chat(message: object, *more: object) -> dict[str, object]:
    return {"choices": [{"message": entry} for entry in (message, *more)]}


def test_answers_are_read_from_each_shape() -> None:
    tools = {"content": None, "tool_calls": [{"id": "1"}]}
    text_part = {"type": "output_text", "text": "hi"}
    output = [{"type": "reasoning"}, {"type": "message", "content": [text_part]}]
    packed = base64.b64encode(array("f", [0.5, -1.0]).tobytes()).decode()

    assert answer_of(chat({"content": "hi"})) == "hi"
    assert answer_of(chat({"content": "a"}, {"content": "b"})) == ["a", "b"]
    assert answer_of(chat(tools)) == tools
    assert answer_of(chat({"content": None, "refusal": "no"})) == RequestFailure("refused", "no")
    assert answer_of(chat({"content": ""})) == ""
    assert answer_of({"choices": [{"message": {}, "finish_reason": "length"}]}).code == "no_answer"
    assert answer_of({"choices": [{"text": "hi"}]}, "/completions") == "hi"
    assert answer_of({"output": output}, "/responses") == "hi"
    assert answer_of({"data": [{"index": 0, "embedding": [1.0]}]}, "/embeddings") == [1.0]
    assert answer_of({"data": [{"embedding": packed}]}, "/embeddings") == [0.5, -1.0]
    swapped = [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]
    assert answer_of({"data": swapped}, "/embeddings") == [[1.0], [2.0]]
    searched = {"output": [{"type": "web_search_call"}, *output]}
    assert answer_of(searched, "/responses") == "hi"
    called = {"output": [{"type": "function_call", "name": "f"}]}
    assert answer_of(called, "/responses") == called
    assert answer_of({"x": 1}, "/rerank") == {"x": 1}
    assert answer_of({"odd": 1}) == {"odd": 1}


def test_tokens_are_the_total_or_none() -> None:
    assert tokens_of({"usage": {"total_tokens": 9}}) == 9
    assert tokens_of({"usage": None}) is None
    assert tokens_of("text") is None
