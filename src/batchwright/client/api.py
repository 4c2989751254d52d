"""A thin client of any OpenAI-compatible Files, Batches and Models API.

One method per operation, plain dictionaries as the wire has them. What must not happen twice
carries an `Idempotency-Key`, which servers that do not know it ignore. Two uploads do no harm; two
batches would be paid twice, so that the list of batches is looked at before one is asked for again.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from urllib.parse import quote

from pyreqwest.multipart import FormBuilder, PartBuilder

from batchwright.client.http import Answer, Http, Json, Unclear
from batchwright.client.settings import resolve_endpoint
from batchwright.replacing import replacing_async

if TYPE_CHECKING:
    from pyreqwest.request import RequestBuilder

OnBytes = Callable[[int], None]

UPLOAD_RATE_MIN = 64 * 1024  # bytes a second; slower uploads run into the timeout
CHUNK_BYTES = 1024 * 1024
BATCHES_LOOKED_AT = 100  # the newest: one that was just begun is among them


class Client:
    """A client of one server. Use it in `async with`, or call `close()`.

    `api_key` and `base_url`: see `resolve_endpoint`. `retries` is how often a call that
    failed for a passing reason is repeated. `timeout_s` bounds one call, and the silence
    between two pieces of a download.

    Every method raises `ApiError` (or a subclass) for an error answer and
    `ServerUnreachable` where no answer came.
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        retries: int = 4,
        timeout_s: float = 600.0,
        data_dir: Path | str | None = None,
    ) -> None:
        endpoint = resolve_endpoint(api_key, base_url, data_dir=data_dir)
        self.base_url = endpoint.base_url
        self._http = Http(endpoint, retries=retries, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Safe twice."""
        await self._http.close()

    # --- files

    async def upload_file(
        self,
        path: Path | str,
        *,
        purpose: str = "batch",
        filename: str | None = None,
        start: int = 0,
        size_bytes: int | None = None,
        expires_after_s: int | None = None,
        idempotency_key: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> Json:
        """Upload a file, or `size_bytes` of it from the byte `start` on; returns the File.

        It is streamed from disk. `on_bytes(n)` is called as `n` more bytes have been handed
        to the connection (a negative `n` takes back what a broken try had sent).
        """
        source = Path(path)
        size = size_bytes
        if size is None:
            size = (await asyncio.to_thread(source.stat)).st_size - start
        upload = _Upload(source, start, size, on_bytes)
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        timeout_s = self._http.timeout_s + size / UPLOAD_RATE_MIN

        def build() -> RequestBuilder:
            form = FormBuilder().text("purpose", purpose)
            if expires_after_s is not None:
                form = form.text("expires_after[anchor]", "created_at")
                form = form.text("expires_after[seconds]", str(expires_after_s))
            name = _plain_name(filename or source.name)
            part = PartBuilder.from_stream_with_length(upload.chunks(), size)
            form = form.part("file", part.file_name(name).mime("application/jsonl"))
            return self._http.builder("POST", "/files", headers, timeout_s).multipart(form)

        return await self._http.json(build)

    async def get_file(self, file_id: str) -> Json:
        """The File object of `file_id`."""
        return await self._http.call("GET", f"/files/{_segment(file_id)}")

    async def delete_file(self, file_id: str) -> Json:
        """Delete a file; returns `{"id", "object", "deleted"}`."""
        return await self._http.call("DELETE", f"/files/{_segment(file_id)}")

    async def list_files(
        self,
        *,
        limit: int | None = None,
        after: str | None = None,
        purpose: str | None = None,
        order: str | None = None,
    ) -> Json:
        """One page of files: `{"data", "has_more", "first_id", "last_id"}`."""
        query = {"limit": limit, "after": after, "purpose": purpose, "order": order}
        return await self._http.call("GET", "/files", query=query)

    async def iter_content(self, file_id: str) -> AsyncIterator[bytes]:
        """The bytes of a file as they arrive; a broken connection is taken up where it broke."""
        async for chunk in self._http.iter_content(f"/files/{_segment(file_id)}/content"):
            yield chunk

    async def iter_lines(self, file_id: str) -> AsyncIterator[bytes]:
        """The lines of a file without their line ends; blank ones are left out.

        Lines end at a line feed only: other Unicode line breaks may stand inside JSON.
        """
        rest = bytearray()
        async for chunk in self.iter_content(file_id):
            rest += chunk
            if b"\n" not in chunk:
                continue
            *lines, tail = bytes(rest).split(b"\n")
            rest = bytearray(tail)
            for line in lines:
                if stripped := line.strip():
                    yield stripped
        if stripped := bytes(rest).strip():
            yield stripped

    async def download(
        self, file_id: str, path: Path | str, *, on_bytes: OnBytes | None = None
    ) -> int:
        """Write the content of a file to `path`; returns its size in bytes.

        `path` appears, or is replaced, only when it is complete.
        """
        size = 0
        async with replacing_async(Path(path)) as temporary:
            with temporary.open("wb") as out:
                async for chunk in self.iter_content(file_id):
                    await asyncio.to_thread(out.write, chunk)
                    size += len(chunk)
                    if on_bytes is not None:
                        on_bytes(len(chunk))
        return size

    # --- batches

    async def create_batch(
        self,
        input_file_id: str,
        *,
        endpoint: str = "/v1/chat/completions",
        completion_window: str = "24h",
        metadata: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        is_fresh_file: bool = False,
    ) -> Json:
        """Create a batch; `extra` is merged into the request body. Returns the Batch.

        Where the answer was lost, the server may have begun the batch: if its list has one over
        the same file, this is it where `is_fresh_file` says that there was none before. Else
        nothing is repeated, and the error is raised.
        """
        body = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": completion_window,
            **({"metadata": dict(metadata)} if metadata else {}),
            **(extra or {}),
        }
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}

        async def find() -> Answer | None:
            return await self._find_begun(input_file_id, is_fresh_file)

        return await self._http.call("POST", "/batches", json_body=body, headers=headers, find=find)

    async def _find_begun(self, input_file_id: str, is_fresh_file: bool) -> Answer | None:
        """The batch over a file, as if it had been answered. Raises `Unclear`."""
        newest = (await self.list_batches(limit=BATCHES_LOOKED_AT)).get("data") or []
        begun = [batch for batch in newest if batch.get("input_file_id") == input_file_id]
        if not begun:
            return None
        if len(begun) > 1 or not is_fresh_file:
            raise Unclear
        return Answer(HTTPStatus.OK, json.dumps(begun[0]).encode(), None, False, None)

    async def get_batch(self, batch_id: str) -> Json:
        """The Batch object of `batch_id`."""
        return await self._http.call("GET", f"/batches/{_segment(batch_id)}")

    async def list_batches(self, *, limit: int | None = None, after: str | None = None) -> Json:
        """One page of batches, newest first: `{"data", "has_more", "first_id", "last_id"}`."""
        return await self._http.call("GET", "/batches", query={"limit": limit, "after": after})

    async def cancel_batch(self, batch_id: str) -> Json:
        """Cancel a batch; raises `StateConflict` if it has ended. Returns the Batch."""
        return await self._http.call("POST", f"/batches/{_segment(batch_id)}/cancel", json_body={})

    async def pause_batch(self, batch_id: str) -> Json:
        """Send nothing more of a batch until it is resumed (batchwright servers only)."""
        return await self._http.call("POST", f"/batches/{_segment(batch_id)}/pause", json_body={})

    async def resume_batch(self, batch_id: str) -> Json:
        """Go on with a paused batch (batchwright servers only)."""
        return await self._http.call("POST", f"/batches/{_segment(batch_id)}/resume", json_body={})

    async def set_priority(self, batch_id: str, priority: str) -> Json:
        """Make a batch `low`, `normal` or `high` from now on (batchwright servers only)."""
        path = f"/batches/{_segment(batch_id)}/priority"
        return await self._http.call("POST", path, json_body={"priority": priority})

    async def retry_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> Json:
        """A new batch of the failed lines of this one (batchwright servers only)."""
        headers = {"idempotency-key": idempotency_key or str(uuid.uuid4())}
        path = f"/batches/{_segment(batch_id)}/retry"
        return await self._http.call("POST", path, json_body={}, headers=headers)

    async def batch_results(
        self, batch_id: str, *, after: str | None = None, limit: int | None = None
    ) -> Json:
        """One page of result lines, also while the batch runs (batchwright servers only)."""
        path = f"/batches/{_segment(batch_id)}/results"
        return await self._http.call("GET", path, query={"after": after, "limit": limit})

    # --- models and keys

    async def list_models(self) -> list[Json]:
        """Every model that the server offers."""
        page = await self._http.call("GET", "/models")
        return list(page.get("data") or [])

    async def create_key(self, **fields: Any) -> Json:
        """Create an API key (batchwright servers, admin keys only); its text is shown once."""
        given = {name: value for name, value in fields.items() if value is not None}
        return await self._http.call("POST", "/batchwright/keys", json_body=given)

    async def list_keys(self) -> list[Json]:
        """Every API key, without its text (batchwright servers, admin keys only)."""
        page = await self._http.call("GET", "/batchwright/keys")
        return list(page.get("data") or [])

    async def revoke_key(self, key_id: str) -> Json:
        """Revoke an API key (batchwright servers, admin keys only)."""
        return await self._http.call("DELETE", f"/batchwright/keys/{_segment(key_id)}")

    # --- any call

    async def send_once(
        self, method: str, path: str, body: bytes, *, timeout_s: float | None = None
    ) -> Answer:
        """One call with a JSON body and no retry, whatever the status of the answer.

        Raises `ServerUnreachable`, and `AnswerTooLarge` for more than 16 MiB.
        """
        return await self._http.send_once(method, path, body, timeout_s=timeout_s)


class _Upload:
    """The bytes of one upload; each try reads them from the start again."""

    def __init__(self, path: Path, start: int, size: int, on_bytes: OnBytes | None) -> None:
        self._path = path
        self._start = start
        self._size = size
        self._on_bytes = on_bytes
        self._told = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        self._tell(-self._told)
        with await asyncio.to_thread(self._open) as source:
            left = self._size
            while left:
                chunk = await asyncio.to_thread(source.read, min(CHUNK_BYTES, left))
                if not chunk:
                    raise OSError(f"{self._path} became shorter while it was uploaded")
                left -= len(chunk)
                yield chunk
                self._tell(len(chunk))

    def _open(self) -> BinaryIO:
        source = self._path.open("rb")
        source.seek(self._start)
        return source

    def _tell(self, size: int) -> None:
        self._told += size
        if self._on_bytes is not None and size:
            self._on_bytes(size)


def _segment(identifier: str) -> str:
    """An id as one segment of a path, whatever it contains."""
    return quote(identifier, safe="")


def _plain_name(name: str) -> str:
    """A file name that cannot break out of its header."""
    return "".join(letter if letter.isprintable() else "_" for letter in name)
