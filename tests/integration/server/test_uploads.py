"""Uploads in parts, through the SDK."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import openai
import pytest

from batchwright.server.settings import ServerSettings

from .conftest import chat_lines, ended, running_server


async def test_parts_that_come_side_by_side_become_one_file_in_the_given_order(
    server: Any,
) -> None:
    content = chat_lines(20)
    pieces = [content[start : start + 700] for start in range(0, len(content), 700)]
    async with server.openai() as client:
        upload = await client.uploads.create(
            bytes=len(content), filename="big.jsonl", mime_type="text/jsonl", purpose="batch"
        )
        assert (upload.status, upload.file) == ("pending", None)
        assert upload.expires_at == upload.created_at + 3600
        parts = await asyncio.gather(
            *(client.uploads.parts.create(upload.id, data=piece) for piece in pieces)
        )
        assert all(part.upload_id == upload.id for part in parts)
        done = await client.uploads.complete(
            upload.id,
            part_ids=[part.id for part in parts],
            md5=hashlib.md5(content).hexdigest(),
        )
        assert done.status == "completed"
        assert done.file is not None
        assert done.file.bytes == len(content)
        back = await client.files.content(done.file.id)
        assert back.content == content
        batch = await client.batches.create(
            input_file_id=done.file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
        )
        assert (await ended(client, batch.id)).request_counts.completed == 20


async def test_the_sdk_s_own_chunked_upload_works(server: Any) -> None:
    async with server.openai() as client:
        done = await client.uploads.upload_file_chunked(
            file=b"x" * 5000,
            filename="a.bin",
            bytes=5000,
            mime_type="application/octet-stream",
            purpose="user_data",
            part_size=2048,
        )

    assert done.file is not None
    assert done.file.bytes == 5000


async def test_wrong_parts_sizes_and_sums_are_refused(server: Any) -> None:
    async with server.openai() as client:
        upload = await client.uploads.create(
            bytes=10, filename="a", mime_type="text/plain", purpose="user_data"
        )
        part = await client.uploads.parts.create(upload.id, data=b"12345")
        for part_ids, param in (
            (["part_none"], "part_ids[0]"),
            ([part.id, part.id], "part_ids[1]"),
            ([part.id], "part_ids"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.uploads.complete(upload.id, part_ids=part_ids)
            assert refused.value.param == param
        rest = await client.uploads.parts.create(upload.id, data=b"67890")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.uploads.complete(upload.id, part_ids=[part.id, rest.id], md5="0" * 32)
        assert refused.value.param == "md5"


async def test_parts_are_bounded_by_what_was_announced(server: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("batchwright.server.uploads.PARTS_MAX", 4)
    async with server.openai() as client:
        upload = await client.uploads.create(
            bytes=10, filename="a", mime_type="text/plain", purpose="user_data"
        )
        with pytest.raises(openai.APIStatusError) as larger:
            await client.uploads.parts.create(upload.id, data=b"x" * 11)
        for _ in range(2):
            await client.uploads.parts.create(upload.id, data=b"x" * 9)
        with pytest.raises(openai.BadRequestError, match="2 times") as passed:
            await client.uploads.parts.create(upload.id, data=b"x" * 3)
        kept = server.blobs_on_disk()
        for _ in range(2):
            await client.uploads.parts.create(upload.id, data=b"x")
        with pytest.raises(openai.BadRequestError):
            await client.uploads.parts.create(upload.id, data=b"")

    assert larger.value.status_code == 413
    assert passed.value.param == "data"
    assert len(kept) == 2


async def test_a_tenant_stores_only_so_much_in_uploads_and_files(tmp_path: Any) -> None:
    settings = ServerSettings(stored_bytes_per_tenant=1_000)
    async with (
        running_server(tmp_path, settings) as server,
        server.openai() as client,
        server.openai("other") as other,
    ):
        announced: dict[str, Any] = {
            "filename": "a",
            "mime_type": "text/plain",
            "purpose": "user_data",
        }
        upload = await client.uploads.create(bytes=600, **announced)
        part = await client.uploads.parts.create(upload.id, data=b"x" * 600)
        await client.uploads.complete(upload.id, part_ids=[part.id])
        second = await client.uploads.create(bytes=400, **announced)
        kept = server.blobs_on_disk()
        with pytest.raises(openai.RateLimitError, match="600 bytes are stored") as refused:
            await client.uploads.create(bytes=401, **announced)
        filling = await client.files.create(file=b"x" * 100, purpose="user_data")
        for refused_call in (
            client.uploads.parts.create(second.id, data=b"x" * 301),
            client.files.create(file=b"x" * 301, purpose="user_data"),
        ):
            with pytest.raises(openai.RateLimitError):
                await refused_call
        left = server.blobs_on_disk()
        await other.files.create(file=b"x" * 301, purpose="user_data")
        await client.files.delete(filling.id)
        await client.uploads.parts.create(second.id, data=b"x" * 400)

    assert refused.value.response.headers["x-should-retry"] == "false"
    assert left == sorted([*kept, f"files/{filling.id}"])


async def test_what_completed_an_upload_says_so_again_and_all_else_conflicts(server: Any) -> None:
    async with server.openai() as client:
        upload = await client.uploads.create(
            bytes=2, filename="a", mime_type="text/plain", purpose="user_data"
        )
        parts = [await client.uploads.parts.create(upload.id, data=b"x") for _ in range(2)]
        ids = [part.id for part in parts]
        first = await client.uploads.complete(upload.id, part_ids=ids)
        again = await client.uploads.complete(upload.id, part_ids=ids)
        for wrong in (ids[::-1], ids[:1], [*ids, "part_none"], []):
            with pytest.raises(openai.ConflictError):
                await client.uploads.complete(upload.id, part_ids=wrong)
        with pytest.raises(openai.ConflictError):
            await client.uploads.cancel(upload.id)
        assert first.file is not None
        await client.files.delete(first.file.id)
        with pytest.raises(openai.ConflictError):
            await client.uploads.complete(upload.id, part_ids=ids)

    assert again == first


async def test_a_cancelled_upload_takes_nothing_more(server: Any) -> None:
    async with server.openai() as client:
        upload = await client.uploads.create(
            bytes=1, filename="a", mime_type="text/plain", purpose="user_data"
        )
        cancelled = await client.uploads.cancel(upload.id)
        with pytest.raises(openai.BadRequestError, match="cancelled"):
            await client.uploads.parts.create(upload.id, data=b"1")
        with pytest.raises(openai.ConflictError):
            await client.uploads.complete(upload.id, part_ids=[])
        assert (await client.uploads.cancel(upload.id)).status == "cancelled"

    assert cancelled.status == "cancelled"
    assert not server.blobs_on_disk()


async def test_an_announcement_is_checked(server: Any) -> None:
    good: dict[str, Any] = {
        "bytes": 1,
        "filename": "a",
        "mime_type": "text/plain",
        "purpose": "batch",
    }
    async with server.http() as http:
        for name, value in (
            ("bytes", 0),
            ("bytes", 2**40),
            ("bytes", 201 * 2**20),
            ("bytes", "many"),
            ("purpose", "nothing"),
            ("filename", 1),
            ("mime_type", None),
        ):
            answer = await http.post("/v1/uploads", json={**good, name: value})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
