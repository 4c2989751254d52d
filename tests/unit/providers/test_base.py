"""The values that go to and come from an upstream."""

from __future__ import annotations

from batchwright.providers.base import Call


def test_a_call_shows_neither_the_key_nor_what_is_said() -> None:
    headers = {"authorization": "Bearer sk-secret"}
    call = Call("POST", "https://host/v1/embeddings", headers, b"private", 1.0, 1)

    assert repr(call) == "Call(method='POST', url='https://host/v1/embeddings', 7 bytes)"
