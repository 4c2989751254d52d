"""The official SDK, unmodified, does the whole tutorial."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from openai import OpenAI

from .conftest import chat_lines, ended

BATCH_KEYS = [
    "id",
    "object",
    "endpoint",
    "model",
    "errors",
    "input_file_id",
    "completion_window",
    "status",
    "output_file_id",
    "error_file_id",
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
    "request_counts",
    "usage",
    "metadata",
    "batchwright",
]


async def test_the_async_sdk_runs_a_batch_from_upload_to_delete(server: Any) -> None:
    async with server.openai() as client:
        file = await client.files.create(
            file=("reviews.jsonl", chat_lines(5, "builtin/sentiment")), purpose="batch"
        )
        assert (await client.files.wait_for_processing(file.id)).status == "processed"
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"job": "nightly"},
        )
        assert batch.status == "validating"
        assert batch.request_counts is not None
        assert batch.request_counts.total == 0

        done = await ended(client, batch.id)
        assert done.status == "completed"
        assert (done.request_counts.total, done.request_counts.completed) == (5, 5)
        assert done.metadata == {"job": "nightly"}
        assert done.model == "builtin/sentiment"
        assert done.usage.total_tokens > 0
        assert done.error_file_id is None

        content = await client.files.content(done.output_file_id)
        lines = [json.loads(line) for line in content.text.splitlines()]
        assert sorted(line["custom_id"] for line in lines) == [f"r-{at}" for at in range(5)]
        assert all(line["error"] is None for line in lines)
        assert all(line["response"]["status_code"] == 200 for line in lines)

        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            await client.files.retrieve(file.id)


async def test_the_sync_sdk_runs_the_same(server: Any) -> None:
    def tutorial() -> str:
        with OpenAI(base_url=server.base_url, api_key=server.token()) as client:
            file = client.files.create(file=chat_lines(2), purpose="batch")
            assert file.filename == "upload"
            batch = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            assert [found.id for found in client.batches.list()] == [batch.id]
            return batch.id

    batch_id = await asyncio.to_thread(tutorial)

    async with server.openai() as client:
        assert (await ended(client, batch_id)).status == "completed"


async def test_a_cancel_in_flight_keeps_what_was_answered(server: Any) -> None:
    server.upstream.gate.clear()
    async with server.openai() as client:
        file = await client.files.create(file=chat_lines(200), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        await server.upstream.called.wait()

        cancelling = await client.batches.cancel(batch.id)
        assert cancelling.status == "cancelling"
        server.upstream.gate.set()
        done = await ended(client, batch.id)

        assert done.status == "cancelled"
        assert done.cancelling_at is not None
        counts = done.request_counts
        assert counts.total == counts.completed + counts.failed == 200
        errors = await client.files.content(done.error_file_id)
        codes = {json.loads(line)["error"]["code"] for line in errors.text.splitlines()}
        assert "batch_cancelled" in codes
        again = await client.batches.cancel(batch.id)
        assert again.status == "cancelled"


async def test_every_key_of_a_batch_is_there_with_an_explicit_null(server: Any) -> None:
    async with server.http() as http:
        made = await http.post(
            "/v1/batches",
            json={
                "input_file_id": "file-none",
                "endpoint": "/chat/completions",
                "completion_window": "24h",
                "metadata": None,
            },
        )
        batch = made.json()

    assert made.status_code == 200
    assert list(batch) == BATCH_KEYS
    assert batch["endpoint"] == "/v1/chat/completions"
    assert batch["expires_at"] == batch["created_at"] + 86_400
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}


async def test_an_unknown_input_file_fails_the_batch_after_creation(server: Any) -> None:
    async with server.openai() as client:
        batch = await client.batches.create(
            input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="24h"
        )
        done = await ended(client, batch.id)

    assert done.status == "failed"
    assert done.errors.object == "list"
    [error] = done.errors.data
    assert (error.code, error.param, error.line) == ("invalid_request", "file_id", None)
    assert done.output_file_id is None
    assert done.error_file_id is None
