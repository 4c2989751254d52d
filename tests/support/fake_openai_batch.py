"""A small OpenAI-compatible server in memory, over real HTTP, for tests of the client.

What a batch does is scripted per test: `server.script` is called with the batch and the
requests of its input and settles it. Everything that was asked is in `server.calls`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]
Script = Callable[["FakeBatch"], None]


@dataclass
class FakeBatch:
    """A batch and what its script may do with it."""

    server: FakeOpenAI
    wire: Json
    lines: list[bytes]
    polls: int = 0

    @property
    def requests(self) -> list[Json]:
        return [json.loads(line) for line in self.lines]

    def finish(
        self, successes: list[Json], failures: list[Json] | None = None, status: str = "completed"
    ) -> None:
        """Write the result files and end the batch."""
        failed = failures or []
        self.wire["status"] = status
        self.wire["output_file_id"] = self.server.store_lines(successes)
        self.wire["error_file_id"] = self.server.store_lines(failed)
        self.wire["request_counts"] = {
            "total": len(self.lines),
            "completed": len(successes),
            "failed": len(failed),
        }

    def invalid(self, errors: list[Json]) -> None:
        """Let validation fail."""
        self.wire["status"] = "failed"
        self.wire["errors"] = {"object": "list", "data": errors}


def success(request: Json, text: str | None = None) -> Json:
    """The output line for a request: `text`, by default an echo of the last message."""
    body = answer_body(request["url"], request["body"], text)
    response = {"status_code": 200, "request_id": "req_1", "body": body}
    return {
        "id": "batch_req_" + request["custom_id"],
        "custom_id": request["custom_id"],
        "response": response,
        "error": None,
    }


def http_failure(request: Json, status: int = 400, code: str = "bad_thing") -> Json:
    """The error line of a request that the provider answered with an error."""
    body = {"error": {"message": "it is bad", "type": "invalid_request_error", "code": code}}
    response = {"status_code": status, "request_id": "req_1", "body": body}
    return {"id": "x", "custom_id": request["custom_id"], "response": response, "error": None}


def not_run(request: Json, code: str) -> Json:
    """The error line of a request that was not run."""
    error = {"code": code, "message": "not executed"}
    return {"id": "x", "custom_id": request["custom_id"], "response": None, "error": error}


def echo_all(batch: FakeBatch) -> None:
    """The default script: every request succeeds at once."""
    batch.finish([success(request) for request in batch.requests])


def answer_body(url: str, body: Json, text: str | None = None) -> Json:
    """A response body in the shape of the endpoint."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    if url.endswith("/embeddings"):
        vector = [float(len(body["input"])), 0.5]
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        return {"object": "list", "data": data, "usage": usage}
    if not url.endswith("/chat/completions"):
        return {"echo": body}
    content = text if text is not None else "echo " + str(body["messages"][-1]["content"])
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"object": "chat.completion", "choices": choices, "usage": usage}


@dataclass
class FakeOpenAI:
    """`with FakeOpenAI() as server: … server.base_url …` It runs in a thread of its own."""

    script: Script = echo_all
    on_poll: Script = lambda batch: None
    api_key: str = "test-key"
    # Answers before the real ones: `(method, path prefix)` to responses, used up in order.
    faults: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    cut_content_at: list[int] = field(default_factory=list)  # break downloads off there
    ranges: bool = True
    answer: Callable[[str, Json], Json] = answer_body  # of the direct endpoints
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, FakeBatch] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    base_url: str = ""
    active_max: int = 0  # direct calls at once, at most
    _active: int = 0
    _stored: int = 0

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 30, middlewares=[self._watch])
        app.add_routes(
            [
                web.post("/v1/files", self._upload),
                web.get("/v1/files", self._list_files),
                web.get("/v1/files/{id}", self._get_file),
                web.delete("/v1/files/{id}", self._delete_file),
                web.get("/v1/files/{id}/content", self._content),
                web.post("/v1/batches", self._create),
                web.get("/v1/batches", self._list_batches),
                web.get("/v1/batches/{id}", self._get_batch),
                web.post("/v1/batches/{id}/cancel", self._cancel),
                web.get("/v1/models", self._models),
                web.post("/v1/{path:.*}", self._direct),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    def store(self, content: bytes) -> str:
        """Keep a file and return its id."""
        self._stored += 1
        file_id = f"file-{self._stored}"
        self.files[file_id] = content
        return file_id

    def store_lines(self, lines: list[Json]) -> str | None:
        """Keep a result file; None for no lines."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        return self.store(text.encode()) if lines else None

    def count(self, method: str, prefix: str) -> int:
        """How many calls there were."""
        return sum(m == method and path.startswith(prefix) for m, path in self.calls)

    @web.middleware
    async def _watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append((request.method, request.path))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if request.headers.get("authorization") != f"Bearer {self.api_key}":
            return _error(401, "wrong key", "invalid_api_key")
        for (method, prefix), answers in self.faults.items():
            if request.method == method and request.path.startswith(prefix) and answers:
                await request.read()
                fault = answers.pop(0)
                if fault.get("after"):
                    await handler(request)
                return _fault(request, fault)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        part = form["file"]
        assert isinstance(part, web.FileField)
        file_id = self.store(part.file.read())
        return web.json_response(self._file(file_id) | {"filename": part.filename})

    def _file(self, file_id: str) -> Json:
        size = len(self.files[file_id])
        return {"id": file_id, "object": "file", "bytes": size, "status": "processed"}

    async def _list_files(self, request: web.Request) -> web.Response:
        data = [self._file(file_id) for file_id in self.files]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def _get_file(self, request: web.Request) -> web.Response:
        file_id = request.match_info["id"]
        if file_id not in self.files:
            return _error(404, f"No such File object: {file_id}")
        return web.json_response(self._file(file_id))

    async def _delete_file(self, request: web.Request) -> web.Response:
        file_id = request.match_info["id"]
        self.files.pop(file_id, None)
        return web.json_response({"id": file_id, "object": "file", "deleted": True})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        content = self.files.get(request.match_info["id"])
        if content is None:
            return _error(404, f"No such File object: {request.match_info['id']}")
        start = request.http_range.start or 0 if self.ranges else 0
        rest = content[start:]
        answer = web.StreamResponse(status=206 if start else 200)
        answer.content_length = len(rest)
        await answer.prepare(request)
        if self.cut_content_at:
            await answer.write(rest[: self.cut_content_at.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return answer
        await answer.write(rest)
        return answer

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        wire = {
            "id": f"batch_{len(self.batches) + 1}",
            "object": "batch",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            **asked,
        }
        lines = self.files[asked["input_file_id"]].splitlines()
        batch = FakeBatch(self, wire, lines)
        self.batches[wire["id"]] = batch
        answer = web.json_response(wire)
        self.script(batch)
        return answer

    async def _list_batches(self, request: web.Request) -> web.Response:
        data = [batch.wire for batch in reversed(self.batches.values())]
        return web.json_response({"object": "list", "data": data, "has_more": False})

    async def _get_batch(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _error(404, "No batch found with that id")
        batch.polls += 1
        self.on_poll(batch)
        return web.json_response(batch.wire)

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        if batch.wire["status"] in ("completed", "failed", "expired"):
            headers = {"x-should-retry": "false"}
            return _error(409, f"it is {batch.wire['status']}", headers=headers)
        batch.wire["status"] = "cancelled"
        return web.json_response(batch.wire)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "a/b", "object": "model"}]})

    async def _direct(self, request: web.Request) -> web.Response:
        self._active += 1
        self.active_max = max(self.active_max, self._active)
        body = await request.json()
        await asyncio.sleep(0)  # lets other calls in
        self._active -= 1
        return web.json_response(self.answer(request.path, body))


def _error(
    status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return web.json_response({"error": error}, status=status, headers=headers)


def _fault(request: web.Request, fault: Json) -> web.StreamResponse:
    """`{"close": True}` breaks the connection, else `status`, `headers`, `code`, `text`, `body`.

    With `{"after": True}` beside them the call had its effect before.
    """
    if fault.get("close"):
        assert request.transport is not None
        request.transport.abort()
    if "text" in fault:
        return web.Response(status=fault["status"], text=fault["text"])
    if "body" in fault:
        return web.Response(status=fault["status"], body=fault["body"])
    return _error(fault.get("status", 500), "a fault", fault.get("code"), fault.get("headers"))
