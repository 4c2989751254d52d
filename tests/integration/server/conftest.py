"""A whole server in the test's own event loop: real sockets, store, files and engine.

Its upstreams are the builtin models, and `Upstream`, which does what a test tells it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from openai import AsyncOpenAI

from batchwright.blobs.local import LocalBlobs
from batchwright.domain.key import Key, digest_of, lookup_id, make_token
from batchwright.domain.limits import LimitSeen
from batchwright.engine.engine import Engine
from batchwright.engine.lane import Lane, LaneLimits
from batchwright.engine.routing import Account, Router
from batchwright.engine.settings import EngineSettings
from batchwright.providers.base import Answer, Call
from batchwright.providers.builtin import MODELS, BuiltinProvider, BuiltinTransport
from batchwright.server.app import create_app
from batchwright.server.guarded import guarded_protocol
from batchwright.server.settings import ServerSettings
from batchwright.store.sql import SqlStore
from batchwright.system import SystemRuntime

PEPPER = b"p" * 32
MODEL = "test-model"


def chat_answer(text: str) -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        }
    ).encode()


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed answer whose chunks come from a queue; None ends it, an error breaks it off."""

    status: int
    headers: Mapping[str, str]
    queue: asyncio.Queue[bytes | Exception | None]

    async def chunks(self) -> AsyncIterator[bytes]:
        while (chunk := await self.queue.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class Upstream:
    """A transport that a test plays: answers, waits, streams."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: Callable[[Call], Answer] = lambda call: Answer(
            200, {"content-type": "application/json"}, chat_answer("yes")
        )
        self.events: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.called = asyncio.Event()
        self.stream_closed = asyncio.Event()
        self.stream_status = 200
        self.stream_type = "text/event-stream"

    async def send(self, call: Call) -> Answer:
        self.calls.append(call)
        self.called.set()
        await self.gate.wait()
        return self.answer(call)

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[Streamed]:
        self.calls.append(call)
        self.called.set()
        try:
            yield Streamed(self.stream_status, {"content-type": self.stream_type}, self.events)
        finally:
            self.stream_closed.set()

    async def close(self) -> None: ...


class PlayedProvider:
    name = "played"
    kind = "openai"

    def __init__(self, transport: Upstream) -> None:
        self.transport = transport

    def prepare(self, url: str, body: bytes) -> Call:
        return Call("POST", f"http://played.invalid{url}", {}, body, 60.0, 2**20)

    def read_limits(
        self, headers: Mapping[str, str], now_s: float, *, is_refusal: bool = False
    ) -> tuple[LimitSeen, ...]:
        return ()

    async def list_models(self) -> list[str]:
        return [MODEL]


@dataclass
class TestServer:
    """A running server and what a test needs to look behind it."""

    __test__ = False

    origin: str
    engine: Engine
    store: SqlStore
    upstream: Upstream
    folder: Path
    app: Any
    tokens: dict[tuple[str, str], str]

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def token(self, tenant: str = "default", role: str = "user") -> str:
        return self.tokens[tenant, role]

    def openai(self, tenant: str = "default", role: str = "user") -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.base_url, api_key=self.token(tenant, role), max_retries=0)

    def http(self, tenant: str | None = "default", role: str = "user") -> httpx.AsyncClient:
        headers = {} if tenant is None else {"authorization": f"Bearer {self.token(tenant, role)}"}
        return httpx.AsyncClient(base_url=self.origin, headers=headers, timeout=20, verify=False)

    def blobs_on_disk(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.folder / "blobs"))
            for path in (self.folder / "blobs").rglob("*")
            if path.is_file()
        )


@asynccontextmanager
async def running_server(
    folder: Path,
    settings: ServerSettings,
    *,
    engine_settings: EngineSettings | None = None,
) -> AsyncIterator[TestServer]:
    runtime = SystemRuntime()
    blobs = LocalBlobs(folder / "blobs")
    store = await SqlStore.open(f"sqlite:///{folder / 'test.db'}")
    upstream = Upstream()
    builtin = BuiltinProvider(BuiltinTransport(wall_clock=time.time))

    def lane(name: str) -> Lane:
        return Lane(name, limits=LaneLimits(max_concurrency=50), runtime=runtime)

    accounts = [
        Account(builtin, lane("builtin"), models=tuple(MODELS)),
        Account(PlayedProvider(upstream), lane("played"), models=(MODEL, "org/model:v1")),
    ]
    engine = Engine(
        tenants=store,
        store=store,
        blobs=blobs,
        runtime=runtime,
        router=Router(accounts),
        settings=engine_settings or EngineSettings(reserve_bytes=0, grace_s=0.0),
    )
    tokens = {}
    for tenant, role in (("default", "user"), ("default", "admin"), ("other", "user")):
        token = make_token(runtime.token(40))
        tokens[tenant, role] = token
        digest = digest_of(PEPPER, token)
        await store.put_key(Key(lookup_id(token), tenant, role, "test", digest, time.time()))
    await engine.start()
    app = create_app(engine=engine, tenants=store, store=store, pepper=PEPPER, settings=settings)
    try:
        async with listening(app, guarded_protocol(settings, runtime.token)) as origin:
            yield TestServer(origin, engine, store, upstream, folder, app, tokens)
    finally:
        upstream.gate.set()
        await engine.stop()
        await builtin.transport.close()
        await store.close()
        await blobs.close()


@asynccontextmanager
async def listening(app: Any, http: Any = "httptools") -> AsyncIterator[str]:
    """Serve an application on a free port, without uvicorn's signal handlers."""
    config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # With its protocol named, or asyncio leaves Nagle's algorithm on: 40 ms for each answer.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        await server.startup(sockets=[listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            # What `Server.shutdown` does, without its fixed wait.
            for listening_server in server.servers:
                listening_server.close()
            for connection in list(server.server_state.connections):
                connection.shutdown()
            while server.server_state.connections or server.server_state.tasks:
                await asyncio.sleep(0)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TestServer]:
    settings = ServerSettings(requests_per_s_per_tenant=None)
    async with running_server(tmp_path, settings) as made:
        yield made


def chat_line(custom_id: str, text: str = "hello", model: str = MODEL) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    )


def chat_lines(count: int, model: str = MODEL) -> bytes:
    return "".join(chat_line(f"r-{at}", f"text {at}", model) + "\n" for at in range(count)).encode()


async def ended(client: AsyncOpenAI, batch_id: str) -> Any:
    """The batch once it is in a terminal state."""
    for _ in range(400):
        batch = await client.batches.retrieve(batch_id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        await asyncio.sleep(0.02)
    raise AssertionError(f"the batch is still {batch.status}: {batch}")
