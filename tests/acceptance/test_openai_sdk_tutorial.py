"""The official `openai` SDK, unmodified, does the whole tutorial against the real server.

The server is a process of its own, and so is its provider: a sandbox with latency.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch

from sandbox_process import SandboxProcess
from server_process import ServerProcess

CHAT: Final = "/v1/chat/completions"
CONCURRENCY = 20
TERMINAL = ("completed", "failed", "expired", "cancelled")
POLL_S = 0.05


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with SandboxProcess("--latency", "50ms") as sandbox:
        config = (
            f'[limits]\nrequests_per_s = 0\n[providers.upstream]\nkind = "openai"\n'
            f'base_url = "{sandbox.base_url}"\nmodels = ["gpt-*"]\n'
            f"max_concurrency = {CONCURRENCY}\n"
        )
        folder = tmp_path_factory.mktemp("tutorial")
        with ServerProcess(folder / "data", config=config) as running:
            yield running


def write_requests(path: Path, count: int) -> list[str]:
    """An input file of chat requests; returns their ids."""
    ids = [f"request-{number}" for number in range(count)]
    with path.open("w") as file:
        for name in ids:
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": name}]}
            line = {"custom_id": name, "method": "POST", "url": CHAT, "body": body}
            file.write(json.dumps(line) + "\n")
    return ids


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def is_done(batch: Batch) -> bool:
    counts = batch.request_counts
    assert counts is not None
    assert counts.completed + counts.failed <= counts.total or batch.status == "validating"
    return batch.status in TERMINAL


def assert_every_request_is_answered(batch: Batch, output: str, ids: list[str]) -> None:
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {
        "total": len(ids),
        "completed": len(ids),
        "failed": 0,
    }
    assert batch.error_file_id is None
    assert batch.usage is not None
    results = lines_of(output)
    assert Counter(result["custom_id"] for result in results) == Counter(ids)
    bodies = [result["response"]["body"] for result in results]
    assert batch.usage.total_tokens == sum(body["usage"]["total_tokens"] for body in bodies)
    assert all(body["choices"][0]["message"]["content"] for body in bodies)


def assert_partial_results(batch: Batch, output: str, errors: str, ids: list[str]) -> None:
    """Every request has one result: an answer, or that it was not run."""
    assert batch.status == "cancelled"
    assert batch.cancelling_at is not None
    assert batch.cancelled_at is not None
    answered, not_run = lines_of(output), lines_of(errors)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (
        len(ids),
        len(answered),
        len(not_run),
    )
    assert Counter(result["custom_id"] for result in [*answered, *not_run]) == Counter(ids)
    assert all(result["response"]["status_code"] == 200 for result in answered)
    assert {result["error"]["code"] for result in not_run} == {"batch_cancelled"}


def test_the_sync_client_does_the_whole_tutorial(server: ServerProcess, tmp_path: Path) -> None:
    ids = write_requests(tmp_path / "requests.jsonl", 60)
    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        with (tmp_path / "requests.jsonl").open("rb") as source:
            uploaded = client.files.create(file=source, purpose="batch")
        assert uploaded.filename == "requests.jsonl"
        assert uploaded.bytes == (tmp_path / "requests.jsonl").stat().st_size
        assert client.files.retrieve(uploaded.id) == uploaded

        batch = client.batches.create(
            input_file_id=uploaded.id,
            endpoint=CHAT,
            completion_window="24h",
            metadata={"description": "nightly"},
        )
        while not is_done(batch):
            time.sleep(POLL_S)
            batch = client.batches.retrieve(batch.id)

        assert batch.metadata == {"description": "nightly"}
        assert batch.output_file_id is not None
        content = client.files.content(batch.output_file_id)
        content.write_to_file(tmp_path / "answers.jsonl")
        assert_every_request_is_answered(batch, (tmp_path / "answers.jsonl").read_text(), ids)

        for file_id in (uploaded.id, batch.output_file_id):
            assert client.files.delete(file_id).deleted
            with pytest.raises(openai.NotFoundError):
                client.files.content(file_id)
        assert not {uploaded.id, batch.output_file_id} & {file.id for file in client.files.list()}
        assert client.batches.retrieve(batch.id).status == "completed"


async def test_the_async_client_does_the_whole_tutorial(
    server: ServerProcess, tmp_path: Path
) -> None:
    ids = write_requests(tmp_path / "requests.jsonl", 60)
    async with AsyncOpenAI(base_url=server.base_url, api_key=server.key) as client:
        uploaded = await client.files.create(file=tmp_path / "requests.jsonl", purpose="batch")
        batch = await client.batches.create(
            input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h"
        )
        while not is_done(batch):
            await asyncio.sleep(POLL_S)
            batch = await client.batches.retrieve(batch.id)

        assert batch.output_file_id is not None
        content = await client.files.content(batch.output_file_id)
        assert_every_request_is_answered(batch, content.text, ids)

        for file_id in (uploaded.id, batch.output_file_id):
            assert (await client.files.delete(file_id)).deleted
            with pytest.raises(openai.NotFoundError):
                await client.files.content(file_id)


def test_the_sync_client_pages_through_batches_and_files(
    server: ServerProcess, tmp_path: Path
) -> None:
    write_requests(tmp_path / "requests.jsonl", 1)
    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        files = [
            client.files.create(file=tmp_path / "requests.jsonl", purpose="batch").id
            for _ in range(5)
        ]
        batches = [
            client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h").id
            for file_id in files
        ]

        first = client.batches.list(limit=2)
        second = first.get_next_page()
        listed = [batch.id for batch in client.batches.list(limit=2)]
        found = [file.id for file in client.files.list(limit=2, purpose="batch", order="asc")]

    assert [batch.id for batch in first.data] == batches[:-3:-1]
    assert [batch.id for batch in second.data] == batches[2:0:-1]
    assert first.has_more
    assert listed[:5] == batches[::-1]  # newest first
    assert len(listed) == len(set(listed))
    assert found[-5:] == files


async def test_the_async_client_pages_through_batches(
    server: ServerProcess, tmp_path: Path
) -> None:
    write_requests(tmp_path / "requests.jsonl", 1)
    async with AsyncOpenAI(base_url=server.base_url, api_key=server.key) as client:
        uploaded = await client.files.create(file=tmp_path / "requests.jsonl", purpose="batch")
        batches = [
            (
                await client.batches.create(
                    input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h"
                )
            ).id
            for _ in range(3)
        ]

        listed = [batch.id async for batch in client.batches.list(limit=1)]

    assert listed[:3] == batches[::-1]
    assert len(listed) == len(set(listed))


def test_the_sync_client_cancels_in_flight_and_gets_what_was_answered(
    server: ServerProcess, tmp_path: Path
) -> None:
    ids = write_requests(tmp_path / "requests.jsonl", 1_500)
    with OpenAI(base_url=server.base_url, api_key=server.key) as client:
        uploaded = client.files.create(file=tmp_path / "requests.jsonl", purpose="batch")
        batch = client.batches.create(
            input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h"
        )
        while not (batch.request_counts and batch.request_counts.completed):
            time.sleep(POLL_S)
            batch = client.batches.retrieve(batch.id)
        assert client.batches.cancel(batch.id).status == "cancelling"
        while not is_done(batch):
            time.sleep(POLL_S)
            batch = client.batches.retrieve(batch.id)

        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        output = client.files.content(batch.output_file_id).text
        errors = client.files.content(batch.error_file_id).text
        assert client.batches.cancel(batch.id).status == "cancelled"  # once more harms nothing
    assert_partial_results(batch, output, errors, ids)


async def test_the_async_client_cancels_in_flight_and_gets_what_was_answered(
    server: ServerProcess, tmp_path: Path
) -> None:
    ids = write_requests(tmp_path / "requests.jsonl", 1_500)
    async with AsyncOpenAI(base_url=server.base_url, api_key=server.key) as client:
        uploaded = await client.files.create(file=tmp_path / "requests.jsonl", purpose="batch")
        batch = await client.batches.create(
            input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h"
        )
        while not (batch.request_counts and batch.request_counts.completed):
            await asyncio.sleep(POLL_S)
            batch = await client.batches.retrieve(batch.id)
        assert (await client.batches.cancel(batch.id)).status == "cancelling"
        while not is_done(batch):
            await asyncio.sleep(POLL_S)
            batch = await client.batches.retrieve(batch.id)

        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        output = (await client.files.content(batch.output_file_id)).text
        errors = (await client.files.content(batch.error_file_id)).text
    assert_partial_results(batch, output, errors, ids)
