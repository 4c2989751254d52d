"""What of a request a prompt cache sees."""

from __future__ import annotations

import json
from typing import Any

from batchwright.engine.prefixes import PREFIX_BYTES_MAX
from batchwright.engine.prompt import prompt_reader

CHAT = "/v1/chat/completions"


def line(**body: Any) -> bytes:
    return json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": body}).encode()


def test_a_prompt_is_tools_then_messages_wherever_they_stand_in_the_body() -> None:
    read = prompt_reader(CHAT)
    messages, tools = [{"role": "user", "content": "hi"}], [{"type": "function"}]

    kind, prompt = read(line(messages=messages, temperature=0, model="m", tools=tools))

    assert kind == b'"m"\0'
    assert prompt == b'[{"type": "function"}]\0\0\0[{"role": "user", "content": "hi"}]'
    assert read(line(model="m", tools=tools, messages=messages, seed=7)) == (kind, prompt)


def test_the_prompt_of_a_response_begins_with_tools_and_instructions() -> None:
    read = prompt_reader("/v1/responses")
    _, prompt = read(line(input="hi", instructions="be brief", model="m"))
    assert prompt == b'\0\0"be brief"\0"hi"'


def test_another_model_and_another_cache_key_are_another_kind() -> None:
    read = prompt_reader("/v1/completions")
    kinds = [
        read(line(prompt="hi", **named))[0]
        for named in ({"model": "m"}, {"model": "n"}, {"model": "m", "prompt_cache_key": "k"})
    ]
    assert len(dict.fromkeys(kinds)) == 3


def test_a_long_prompt_is_cut_and_a_line_that_cannot_be_read_has_none() -> None:
    read = prompt_reader("/v1/completions")
    assert len(read(line(model="m", prompt="x" * 2 * PREFIX_BYTES_MAX))[1]) == PREFIX_BYTES_MAX
    assert read(b'{"body": \xff') == (b"", b"")
    assert read(b'{"body": []}') == (b"", b"")
