"""Answers that are there already, copied: over HTTP, and across a restart of the server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from batchwright.providers.base import Answer
from batchwright.server.settings import ServerSettings

from .conftest import TestServer, chat_line, ended, running_server

DEDUPE = {"batchwright": {"dedupe": True}}


async def created(
    server: TestServer, texts: list[str], *, tenant: str = "default", **extra: Any
) -> str:
    lines = "".join(chat_line(f"r-{at}", text) + "\n" for at, text in enumerate(texts))
    async with server.openai(tenant) as client:
        file = await client.files.create(file=lines.encode(), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_body=extra,
        )
    return str(batch.id)


async def test_each_line_has_its_answer_and_the_batch_tells_what_that_saved(server: Any) -> None:
    batch_id = await created(server, ["a", "b", "a", "a"], **DEDUPE)
    async with server.openai() as client:
        batch = await ended(client, batch_id)
        content = (await client.files.content(batch.output_file_id)).content

    results = {line["custom_id"]: line for line in map(json.loads, content.splitlines())}
    assert len(server.upstream.calls) == 2
    assert (batch.request_counts.completed, len(results)) == (4, 4)
    assert results["r-2"]["response"] == results["r-0"]["response"]
    assert results["r-2"]["batchwright"]["copied_from"] == {"line": 1}
    assert "copied_from" not in results["r-1"]["batchwright"]
    ours = batch.model_extra["batchwright"]
    assert (ours["dedupe"], ours["attempts"]) == (True, 2)
    assert ours["savings"]["requests"] == 2
    assert ours["savings"]["usage"]["total_tokens"] == batch.usage.total_tokens


async def test_it_is_off_where_it_is_not_asked_for(server: Any) -> None:
    batch_id = await created(server, ["a", "a"])
    async with server.openai() as client:
        batch = await ended(client, batch_id)

    assert len(server.upstream.calls) == 2
    assert batch.model_extra["batchwright"]["dedupe"] is False


async def test_the_results_of_a_running_batch_have_copies_as_soon_as_there_are(
    server: Any,
) -> None:
    answer = server.upstream.answer
    server.upstream.answer = lambda call: (
        Answer(503, {}, b"{}") if b"held" in call.body else answer(call)
    )
    batch_id = await created(server, ["held", "a", "a", "held"], **DEDUPE)
    async with server.http() as http:
        seen: list[Any] = []
        while len(seen) < 2:
            page = await http.get(f"/v1/batches/{batch_id}/results")
            seen = page.json()["data"]
            await asyncio.sleep(0)
        cancelled = await http.post(f"/v1/batches/{batch_id}/cancel")

    assert [line["custom_id"] for line in seen] == ["r-1", "r-2"]
    assert cancelled.status_code == 200


async def test_a_retry_is_deduped_as_the_batch_was_or_as_it_is_told(server: Any) -> None:
    refusal = Answer(400, {}, b'{"error": {"message": "no"}}')
    server.upstream.answer = lambda call: refusal
    batch_id = await created(server, ["a"] * 4, **DEDUPE)
    async with server.http() as http, server.openai() as client:
        first = await ended(client, batch_id)
        again = (await http.post(f"/v1/batches/{batch_id}/retry")).json()
        await ended(client, again["id"])
        calls = len(server.upstream.calls)
        body = {"batchwright": {"dedupe": False}}
        apart = (await http.post(f"/v1/batches/{batch_id}/retry", json=body)).json()
        await ended(client, apart["id"])

    assert first.request_counts.failed == 4
    assert calls == 2
    assert again["batchwright"]["dedupe"] is True
    assert apart["batchwright"]["dedupe"] is False
    assert len(server.upstream.calls) == calls + 4


async def test_a_restart_goes_on_deduped(tmp_path: Path) -> None:
    settings = ServerSettings()
    async with running_server(tmp_path, settings) as server:
        server.upstream.gate.clear()
        batch_id = await created(server, ["a", "b"] * 500, **DEDUPE)
        while len(server.upstream.calls) < 2:
            await asyncio.sleep(0)
    async with running_server(tmp_path, settings) as server, server.openai() as client:
        batch = await ended(client, batch_id)
        assert len(server.upstream.calls) <= 2
    assert batch.request_counts.completed == 1_000
    assert batch.model_extra["batchwright"]["savings"]["requests"] == 998


async def test_an_answer_of_an_earlier_batch_is_not_bought_again(server: Any) -> None:
    cached = {"batchwright": {"cache": {"max_age_s": 3_600}}}
    async with server.openai() as client, server.openai("other") as other:
        first = await ended(client, await created(server, ["a", "b"], **cached))
        second = await ended(client, await created(server, ["b", "c"], **cached))
        content = (await client.files.content(second.output_file_id)).content
        calls = len(server.upstream.calls)
        theirs = await ended(other, await created(server, ["a"], tenant="other", **cached))
        await client.files.delete(first.output_file_id)
        await ended(client, await created(server, ["a"], **cached))

    results = {line["custom_id"]: line for line in map(json.loads, content.splitlines())}
    source = results["r-0"]["batchwright"]["cached_from"]
    assert (source["batch"], source["line"]) == (first.id, 2)
    assert first.created_at <= source["at"] <= second.created_at
    assert "cached_from" not in results["r-1"]["batchwright"]
    assert second.model_extra["batchwright"]["savings"]["requests"] == 1
    assert second.model_extra["batchwright"]["cache"] == {"max_age_s": 3_600}
    assert calls == 3
    assert theirs.model_extra["batchwright"]["savings"]["requests"] == 0
    assert len(server.upstream.calls) == 5
