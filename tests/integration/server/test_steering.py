"""Priority, pause and resume over HTTP, and across a restart of the server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from batchwright.providers.base import Answer
from batchwright.server.settings import ServerSettings

from .conftest import TestServer, chat_lines, ended, running_server

HIGH = {"batchwright": {"priority": "high"}}


async def created(server: TestServer, count: int, **extra: Any) -> Any:
    async with server.openai() as client:
        file = await client.files.create(file=chat_lines(count), purpose="batch")
        return await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_body=extra,
        )


async def running(server: TestServer, count: int = 80, **extra: Any) -> str:
    """A batch of which as many requests as the lane lets pass wait for their answer."""
    server.upstream.gate.clear()
    batch = await created(server, count, **extra)
    while len(server.upstream.calls) < 50:
        await asyncio.sleep(0)
    return str(batch.id)


async def asked(http: httpx.AsyncClient, batch_id: str, act: str, body: Any = None) -> Any:
    answer = await http.post(f"/v1/batches/{batch_id}/{act}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_priority_is_given_at_creation_shown_and_changed(server: Any) -> None:
    plain = await created(server, 1)
    batch_id = await running(server, **HIGH)
    async with server.http() as http:
        shown = (await http.get(f"/v1/batches/{batch_id}")).json()
        changed = await asked(http, batch_id, "priority", {"priority": "low"})
        listed = (await http.get("/v1/batches")).json()["data"]

    assert plain.model_extra["batchwright"]["priority"] == "normal"
    assert shown["batchwright"]["priority"] == "high"
    assert changed["batchwright"]["priority"] == "low"
    assert changed["status"] == "in_progress"
    assert [batch["batchwright"]["priority"] for batch in listed] == ["low", "normal"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_required_parameter"),
        ({"priority": "urgent"}, "invalid_value"),
        ({"priority": ["high"]}, "invalid_type"),
    ],
)
async def test_a_level_that_is_none_is_400_and_names_the_field(
    server: Any, body: Any, code: str
) -> None:
    batch = await created(server, 1)
    async with server.http() as http:
        answer = await http.post(f"/v1/batches/{batch.id}/priority", json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "priority", code)


async def test_a_paused_batch_keeps_what_is_in_flight_and_sends_nothing(server: Any) -> None:
    batch_id = await running(server)
    async with server.http() as http, server.openai() as client:
        first = await asked(http, batch_id, "pause")
        again = await asked(http, batch_id, "pause")
        server.upstream.gate.set()
        while (shown := (await http.get(f"/v1/batches/{batch_id}")).json())["request_counts"][
            "completed"
        ] < 50:
            await asyncio.sleep(0)

        assert len(server.upstream.calls) == 50
        assert (first["status"], shown["status"]) == ("in_progress", "in_progress")
        paused_at = first["batchwright"]["paused_at"]
        assert paused_at >= first["created_at"]
        assert again["batchwright"]["paused_at"] == shown["batchwright"]["paused_at"] == paused_at
        assert shown["batchwright"]["held_back_by"] == "it is paused"

        server.upstream.gate.clear()
        for _ in range(2):
            resumed = await asked(http, batch_id, "resume")
            assert resumed["batchwright"]["paused_at"] is None
        server.upstream.gate.set()
        done = await ended(client, batch_id)
    assert (done.status, done.request_counts.completed) == ("completed", 80)
    assert len(server.upstream.calls) == 80


async def test_steering_an_ended_batch_is_409(server: Any) -> None:
    batch = await created(server, 1)
    async with server.http() as http, server.openai() as client:
        await ended(client, batch.id)
        for act, body in (("pause", None), ("resume", None), ("priority", {"priority": "low"})):
            answer = await http.post(f"/v1/batches/{batch.id}/{act}", json=body)
            assert answer.status_code == 409, act
            assert "with status 'completed'" in answer.json()["error"]["message"]
            assert answer.headers["x-should-retry"] == "false"


async def test_a_restart_keeps_priority_and_pause(tmp_path: Path) -> None:
    settings = ServerSettings(requests_per_s_per_tenant=None)
    async with running_server(tmp_path, settings) as server, server.http() as http:
        batch_id = await running(server, **HIGH)
        before = await asked(http, batch_id, "pause")
        server.upstream.gate.set()
        while server.engine.supervisor(batch_id).current.tally.settled < 50:  # type: ignore[union-attr]
            await asyncio.sleep(0)

    async with running_server(tmp_path, settings) as server, server.http() as http:
        shown = (await http.get(f"/v1/batches/{batch_id}")).json()
        while server.engine.supervisor(batch_id).current is None:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        for _ in range(200):  # enough turns for requests to be sent, if there were any to send
            await asyncio.sleep(0)
        assert server.upstream.calls == []
        for name in ("priority", "paused_at"):
            assert shown["batchwright"][name] == before["batchwright"][name] is not None

        await asked(http, batch_id, "resume")
        async with server.openai() as client:
            done = await ended(client, batch_id)
            lines = (await client.files.content(done.output_file_id)).content.splitlines()
        assert len(server.upstream.calls) == 30
    assert len({json.loads(line)["custom_id"] for line in lines}) == len(lines) == 80


async def test_a_retry_has_the_priority_of_the_batch_that_it_repeats_or_its_own(
    server: Any,
) -> None:
    refusal = Answer(400, {}, b'{"error": {"message": "no"}}')
    server.upstream.answer = lambda call: refusal
    batch = await created(server, 2, **HIGH)
    async with server.http() as http, server.openai() as client:
        await ended(client, batch.id)
        as_before = await asked(http, batch.id, "retry", {})
        lower = await asked(http, batch.id, "retry", {"batchwright": {"priority": "low"}})

    assert as_before["batchwright"]["priority"] == "high"
    assert lower["batchwright"]["priority"] == "low"


async def test_by_prefix_requests_that_begin_alike_go_out_together_also_in_a_retry(
    server: Any,
) -> None:
    refusal = Answer(400, {}, b'{"error": {"message": "no"}}')
    server.upstream.answer = lambda call: refusal
    lines = chat_lines(12).splitlines(True)
    for number, line in enumerate(lines):
        content = json.loads(line)["body"]["messages"][0]["content"]
        prompt = f"prompt {number % 3} ".ljust(2_000, ".")
        lines[number] = line.replace(json.dumps(content).encode(), json.dumps(prompt).encode())
    async with server.openai() as client, server.http() as http:
        file = await client.files.create(file=b"".join(lines), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            extra_body={"batchwright": {"order": "prefix"}},
        )
        await ended(client, batch.id)
        again = await asked(http, batch.id, "retry", {})
        await ended(client, again["id"])
        other = await asked(http, batch.id, "retry", {"batchwright": {"order": "input"}})
        await ended(client, other["id"])
    sent = [json.loads(call.body)["messages"][0]["content"][7] for call in server.upstream.calls]

    assert batch.model_extra["batchwright"]["order"] == again["batchwright"]["order"] == "prefix"
    assert other["batchwright"]["order"] == "input"
    # With so many calls at a time the three forerunners go first of all.
    assert "".join(sent[:12]) == "".join(sent[12:24]) == "012000111222"
    assert "".join(sent[24:]) == 4 * "012"
