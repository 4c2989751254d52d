"""A world in which the whole engine runs unchanged: virtual time, a scripted network, a disk that
tears, a process that dies. One seed gives one history, to the byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import selectors
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, TypeVar

from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.batch import Batch
from batchwright.domain.errors import Ambiguous, NotSent
from batchwright.domain.file import Extent
from batchwright.domain.limits import LimitSeen
from batchwright.engine.engine import Engine
from batchwright.engine.lane import Lane, LaneLimits
from batchwright.engine.routing import Account, Router
from batchwright.engine.settings import EngineSettings
from batchwright.providers.base import Answer, Call, StreamedAnswer
from batchwright.store.memory import MemoryStore

T = TypeVar("T")

TENANT = "default"
EPOCH_AT = 1_800_000_000.0  # when every history begins, in Unix seconds


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        super().__init__(_NoWait(self))
        self.elapsed_s = 0.0

    def time(self) -> float:
        return self.elapsed_s

    def cancel_timers(self) -> None:
        """What was to happen later does not."""
        for handle in self._scheduled:  # type: ignore[attr-defined]
            handle.cancel()


class _NoWait(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that never comes")
        self._loop.elapsed_s += max(0.0, timeout)
        return super().select(0)


def simulate(history: Coroutine[Any, Any, T]) -> T:
    """Run a history to its end, in virtual time; what still runs then dies."""

    async def whole() -> T:
        try:
            return await history
        finally:
            await kill_other_tasks()

    loop = VirtualLoop()
    try:
        return loop.run_until_complete(whole())
    finally:
        loop.close()


async def kill_other_tasks() -> None:
    """End every task and timer but this task: a dead process does not clean up, nor wake again."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.cancel_timers()
    while dying := asyncio.all_tasks() - {asyncio.current_task()}:  # the dying may start others
        for task in sorted(dying, key=lambda task: task.get_name()):
            task.cancel()
        await asyncio.sleep(0)


class VirtualRuntime:
    """Clocks of the loop, randomness of the seed."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def now(self) -> float:
        return EPOCH_AT + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def random(self) -> float:
        return self._random.random()

    def token(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)


class ScriptedNetwork:
    """A transport with latencies and faults from a seed, and a ledger of what arrived.

    It outlives the engine's process, as a provider does.
    """

    def __init__(self, random: Random, *, fault_rate: float = 0.0, latency_s: float = 1.0) -> None:
        self.ledger: list[str] = []  # custom content of each request received, in order
        self.fault_rate = fault_rate
        self.latency_s = latency_s
        self.in_flight = 0
        self.in_flight_max = 0
        self._random = random

    async def send(self, call: Call) -> Answer:
        random = self._random
        fault = random.random() < self.fault_rate
        kind = random.randrange(len(_FAULTS))
        if fault and _FAULTS[kind] == "refused":
            await asyncio.sleep(0.01)
            raise NotSent("connection refused")
        self.ledger += texts_of(call.body)
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s * (0.5 + random.random()))
        finally:
            self.in_flight -= 1
        if is_embedding(call.body):
            texts = texts_of(call.body)
            is_wrong = fault and _FAULTS[kind] == "truncated" and len(texts) > 1
            if not fault or is_wrong:
                return self._embeddings(texts, is_wrong=is_wrong)
        return self._faulty(_FAULTS[kind]) if fault else _answer(call.body)

    def _embeddings(self, texts: list[str], *, is_wrong: bool) -> Answer:
        """An embedding for each text, in any order; where it is wrong, one too few or too many,
        or one twice. A text with `refused` in it is no input that this provider takes."""
        if any("refused" in text for text in texts):
            return Answer(400, {}, b'{"error":{"message":"invalid input"}}')
        data = [{"index": n, "embedding": f"echo: {text}"} for n, text in enumerate(texts)]
        self._random.shuffle(data)
        if is_wrong:
            data = self._random.choice([data[1:], [*data, data[0]], [data[0], *data[:-1], {}]])
        usage = {"prompt_tokens": 5 * len(texts), "total_tokens": 5 * len(texts)}
        whole = {"object": "list", "data": data, "model": "m", "usage": usage}
        return Answer(200, {"x-request-id": "req_sim"}, json.dumps(whole).encode())

    def _faulty(self, kind: str) -> Answer:
        if kind == "reset":
            raise Ambiguous("connection reset while waiting for the answer")
        if kind == "too_many":
            return Answer(429, {"retry-after": "2"}, b'{"error":{"message":"slow down"}}')
        if kind == "truncated":
            return Answer(200, {}, b'{"choices":[{"mess')
        return Answer(500, {}, b'{"error":{"message":"oops"}}')

    @asynccontextmanager
    async def stream(self, call: Call) -> AsyncIterator[StreamedAnswer]:
        raise NotImplementedError("the simulation has no live clients")
        yield  # pragma: no cover

    async def close(self) -> None:
        return None


_FAULTS = ("refused", "reset", "too_many", "truncated", "server_error")


def is_embedding(body: bytes) -> bool:
    return "input" in json.loads(body)


def texts_of(body: bytes) -> list[str]:
    """What the requests of a call say: one, or as many as there are inputs."""
    whole = json.loads(body)
    if "input" not in whole:
        return [whole["messages"][0]["content"]]
    return whole["input"] if isinstance(whole["input"], list) else [whole["input"]]


def _answer(body: bytes) -> Answer:
    text = "echo: " + json.loads(body)["messages"][0]["content"]
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    return Answer(200, {"x-request-id": "req_sim"}, json.dumps(answer).encode())


class ScriptedProvider:
    """A provider whose transport is the scripted network."""

    name = "upstream"
    kind = "openai"

    def __init__(self, network: ScriptedNetwork) -> None:
        self.transport = network

    def prepare(self, url: str, body: bytes) -> Call:
        return Call("POST", "http://upstream" + url, {}, body, 600.0, 1 << 24)

    def read_limits(
        self, headers: Mapping[str, str], now_s: float, *, is_refusal: bool = False
    ) -> tuple[LimitSeen, ...]:
        return ()

    async def list_models(self) -> list[str]:
        return ["m"]


class World:
    """What survives a crash (disk, store, provider), and the engine that lives on it."""

    def __init__(
        self,
        seed: int,
        *,
        fault_rate: float = 0.0,
        limits: LaneLimits | None = None,
        settings: EngineSettings | None = None,
    ) -> None:
        self.random = Random(seed)
        self.runtime = VirtualRuntime(self.random)
        self.network = ScriptedNetwork(self.random, fault_rate=fault_rate)
        self.blobs = MemoryBlobs(pause=self._pause)
        self.store = MemoryStore()
        self.limits = limits or LaneLimits(max_concurrency=50)
        self.settings = settings or EngineSettings(reserve_bytes=0)
        self.engine: Engine | None = None
        self.provider_name = ScriptedProvider.name
        self.upstream = ""
        self.models: tuple[str, ...] = ("m",)  # as configured; empty: the provider is asked

    async def _pause(self) -> None:
        await asyncio.sleep(0.001 + 0.004 * self.random.random())

    async def boot(self) -> Engine:
        """A new process starts on what is there."""
        lane = Lane("upstream", limits=self.limits, runtime=self.runtime, upstream=self.upstream)
        provider = ScriptedProvider(self.network)
        provider.name = self.provider_name
        router = Router([Account(provider, lane, models=self.models)])
        self.engine = Engine(
            tenants=self.store,
            store=self.store,
            blobs=self.blobs,
            runtime=self.runtime,
            router=router,
            settings=self.settings,
        )
        await self.engine.start()
        return self.engine

    async def crash(self, *, power_cut: bool = False) -> None:
        """The process dies: its tasks are gone at once, the disk loses what was not synced."""
        self.blobs.crash(self.random, power_cut=power_cut)
        await kill_other_tasks()
        self.engine = None

    def used_bytes(self) -> int:
        return self.blobs.capacity_bytes - self.blobs.free_bytes()

    async def upload(self, data: bytes, tenant: str = TENANT) -> str:
        """Store an input file; returns its id."""
        assert self.engine is not None
        file = self.engine.new_file(
            tenant, purpose="batch", filename="in.jsonl", size_bytes=len(data), sha256=None
        )
        writer = await self.blobs.open_writer(f"files/{file.id}")
        await writer.write(data)
        await writer.finish()

        await self.store.create_file(tenant, file, [Extent(f"files/{file.id}", 0, len(data))])
        return file.id

    async def create_batch(
        self,
        data: bytes,
        window: str = "24h",
        *,
        endpoint: str = "/v1/chat/completions",
        options: Mapping[str, Any] | None = None,
    ) -> Batch:
        """Upload an input file and create a batch of it."""
        assert self.engine is not None
        return await self.engine.create_batch(
            TENANT,
            endpoint=endpoint,
            input_file_id=await self.upload(data),
            completion_window=window,
            options=options,
        )

    async def get_batch(self, batch_id: str) -> Batch:
        assert self.engine is not None
        return await self.engine.get_batch(TENANT, batch_id)

    async def read_file(self, file_id: str | None, tenant: str = TENANT) -> bytes:
        """The bytes of a file; empty for none."""
        if file_id is None:
            return b""
        pieces = []
        for extent in await self.store.get_extents(tenant, file_id):
            pieces += [c async for c in self.blobs.read(extent.key, extent.offset, extent.length)]
        return b"".join(pieces)


def chat_lines(count: int, model: str = "m") -> bytes:
    """An input file of so many small chat requests; request i says `request i`."""
    return chat_lines_saying([f"request {i}" for i in range(count)], model)


def chat_lines_saying(texts: Sequence[str], model: str = "m") -> bytes:
    """An input file of a small chat request for each text; the i-th from 0 is named `r-i`."""
    return b"".join(
        json.dumps(
            {
                "custom_id": f"r-{i}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": model, "messages": [{"role": "user", "content": text}]},
            }
        ).encode()
        + b"\n"
        for i, text in enumerate(texts)
    )


def embedding_lines(texts: Sequence[str], model: str = "m") -> bytes:
    """An input file of embedding requests, each named as its text."""
    lines = [
        {
            "custom_id": text,
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": model, "input": text},
        }
        for text in texts
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
