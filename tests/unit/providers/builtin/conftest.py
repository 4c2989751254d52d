"""A provider with a fixed clock, and a way to ask it that reads like a call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from batchwright.providers.base import Answer, Call
from batchwright.providers.builtin import BuiltinProvider, BuiltinTransport

NOW = 1_760_000_000


class Asker:
    """Sends JSON bodies and reads JSON answers."""

    def __init__(self, provider: BuiltinProvider) -> None:
        self.provider = provider

    def call(self, url: str, body: dict[str, Any]) -> Call:
        return self.provider.prepare(url, msgspec.json.encode(body))

    async def send(self, url: str, **body: Any) -> Answer:
        return await self.provider.transport.send(self.call(url, body))

    async def ok(self, url: str, **body: Any) -> Any:
        answer = await self.send(url, **body)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    async def chat(self, model: str, text: str, **params: Any) -> Any:
        messages = [{"role": "user", "content": text}]
        return await self.ok("/v1/chat/completions", model=model, messages=messages, **params)

    async def error(self, url: str, *, status: int = 400, **body: Any) -> Any:
        answer = await self.send(url, **body)
        assert answer.status == status, answer.body
        error = json.loads(answer.body)["error"]
        assert sorted(error) == ["code", "message", "param", "type"]
        assert error["type"] == "invalid_request_error"
        return error


@pytest.fixture
async def asker() -> AsyncIterator[Asker]:
    transport = BuiltinTransport(wall_clock=lambda: NOW + 0.75)
    yield Asker(BuiltinProvider(transport))
    await transport.close()
