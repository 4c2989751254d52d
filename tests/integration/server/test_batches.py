"""Batches: each refusal of the contract, paging, results while running, retry, idempotency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from batchwright.domain.errors import NoSpace
from batchwright.providers.base import Answer, Call
from batchwright.server.settings import ServerSettings

from .conftest import chat_answer, chat_line, chat_lines, ended, running_server

GOOD = {
    "input_file_id": "file-x",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
}

# change of the good body → (param, code, a part of the message)
REFUSALS: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"input_file_id": None}, "input_file_id", "missing_required_parameter", "Missing required"),
    ({"endpoint": None}, "endpoint", "missing_required_parameter", "Missing required parameter: '"),
    ({"completion_window": None}, "completion_window", "missing_required_parameter", "Missing"),
    ({"endpoint": "/v1/nothing"}, "endpoint", "invalid_value", "'/v1/nothing'"),
    ({"endpoint": "/v1/nothing"}, "endpoint", "invalid_value", "'/v1/responses'"),
    ({"endpoint": 1}, "endpoint", "invalid_type", "an integer"),
    ({"input_file_id": ["a"]}, "input_file_id", "invalid_type", "an array"),
    ({"input_file_id": "f" * 257}, "input_file_id", "invalid_value", "256"),
    ({"completion_window": "25y"}, "completion_window", "invalid_value", "'25y'"),
    ({"completion_window": "30s"}, "completion_window", "invalid_value", "'24h'"),
    ({"completion_window": "15d"}, "completion_window", "invalid_value", "'14d'"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type", "a string"),
    ({"metadata": "x"}, "metadata", "invalid_type", "an object"),
    ({"metadata": {str(at): "" for at in range(17)}}, "metadata", "invalid_value", "16"),
    ({"metadata": {"k" * 65: ""}}, "metadata." + "k" * 64, "invalid_value", "64"),
    ({"metadata": {"a": "v" * 513}}, "metadata.a", "invalid_value", "512"),
    (
        {"output_expires_after": {"anchor": "now", "seconds": 3600}},
        "output_expires_after.anchor",
        "invalid_value",
        "created_at",
    ),
    (
        {"output_expires_after": {"anchor": "created_at", "seconds": 3599}},
        "output_expires_after.seconds",
        "invalid_value",
        "3600",
    ),
    (
        {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
        "output_expires_after.seconds",
        "invalid_value",
        "2592000",
    ),
    (
        {"output_expires_after": {"anchor": "created_at", "seconds": True}},
        "output_expires_after.seconds",
        "invalid_type",
        "a boolean",
    ),
    (
        {"output_expires_after": {"seconds": 3600}},
        "output_expires_after.anchor",
        "missing_required_parameter",
        "anchor",
    ),
    ({"output_expires_after": 3600}, "output_expires_after", "invalid_type", "an object"),
    ({"batchwright": "high"}, "batchwright", "invalid_type", "an object"),
    ({"batchwright": {"priority": "top"}}, "batchwright.priority", "invalid_value", "'high'"),
    ({"batchwright": {"priority": 1}}, "batchwright.priority", "invalid_type", "an integer"),
    ({"batchwright": {"dedupe": 1}}, "batchwright.dedupe", "invalid_type", "a boolean"),
    ({"batchwright": {"order": "random"}}, "batchwright.order", "invalid_value", "'prefix'"),
    ({"batchwright": {"order": True}}, "batchwright.order", "invalid_type", "a boolean"),
    (
        {"batchwright": {"order": "prefix"}, "endpoint": "/v1/embeddings"},
        "batchwright.order",
        "invalid_value",
        "/v1/embeddings",
    ),
    ({"batchwright": {"cache": True}}, "batchwright.cache", "invalid_type", "an object"),
    (
        {"batchwright": {"cache": {}}},
        "batchwright.cache.max_age_s",
        "missing_required_parameter",
        "max_age_s",
    ),
    (
        {"batchwright": {"cache": {"max_age_s": 0}}},
        "batchwright.cache.max_age_s",
        "invalid_value",
        "1 to",
    ),
    (
        {"batchwright": {"cache": {"max_age_s": "1d"}}},
        "batchwright.cache.max_age_s",
        "invalid_type",
        "an integer",
    ),
    (
        {"batchwright": {"cache": {"max_age": 1}}},
        "batchwright.cache.max_age",
        "unknown_parameter",
        "max_age_s",
    ),
    ({"batchwright": {"prio": "low"}}, "batchwright.prio", "unknown_parameter", "priority'"),
]


async def test_a_wrong_body_is_400_with_param_and_code(server: Any) -> None:
    async with server.http() as http:
        for change, param, code, part in REFUSALS:
            body = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
            answer = await http.post("/v1/batches", json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (400, param, code), body
            assert error["type"] == "invalid_request_error"
            assert part in error["message"], error
        listed = (await http.get("/v1/batches")).json()

    assert listed["data"] == []


async def test_unknown_keys_are_ignored_and_other_windows_taken(server: Any) -> None:
    async with server.http() as http:
        for window, window_s in (("1m", 60), ("14d", 14 * 86_400)):
            body = {**GOOD, "completion_window": window, "unknown": {"a": 1}}
            batch = (await http.post("/v1/batches", json=body)).json()
            assert batch["completion_window"] == window
            assert batch["expires_at"] == batch["created_at"] + window_s


async def test_a_file_of_another_purpose_is_refused_at_creation(server: Any) -> None:
    async with server.openai() as client:
        file = await client.files.create(file=chat_lines(1), purpose="user_data")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )

    assert refused.value.param == "input_file_id"


async def test_every_bad_line_is_named_and_nothing_is_sent(server: Any) -> None:
    lines = [
        chat_line("a"),
        '{"custom_id": "b"',
        chat_line("a"),
        chat_line("c", model="nobody-has-it"),
        chat_line("d").replace('"POST"', '"GET"'),
    ]
    async with server.openai() as client:
        file = await client.files.create(file="\n".join(lines).encode(), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        done = await ended(client, batch.id)

    assert done.status == "failed"
    assert [(error.line, error.code) for error in done.errors.data] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "model_not_found"),
        (5, "invalid_method"),
    ]
    assert (done.output_file_id, done.error_file_id) == (None, None)
    assert done.request_counts.total == 0
    assert server.upstream.calls == []


async def test_the_list_is_newest_first_and_paged(server: Any) -> None:
    async with server.openai() as client:
        made = [(await client.batches.create(**GOOD)).id for _ in range(5)]
        pages = [batch.id async for batch in client.batches.list(limit=2)]
        lost = await client.batches.list(after="batch_unknown")
        clamped = await client.batches.list(limit=1000)

    assert pages == made[::-1]
    assert lost.data == []
    assert len(clamped.data) == 5


async def test_an_unknown_batch_is_404_without_param(server: Any) -> None:
    async with server.http() as http:
        for method, path in (
            ("GET", "/v1/batches/batch_x"),
            ("POST", "/v1/batches/batch_x/cancel"),
            ("GET", "/v1/batches/batch_x/results"),
            ("POST", "/v1/batches/batch_x/retry"),
            ("POST", "/v1/batches/batch_x/pause"),
            ("POST", "/v1/batches/batch_x/resume"),
        ):
            answer = await http.request(method, path)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["code"]) == (404, None, None)
            assert "No batch found with id 'batch_x'" in error["message"]


async def test_a_cancel_of_an_ended_batch_is_409_and_final(server: Any) -> None:
    async with server.openai() as client:
        batch = await client.batches.create(**GOOD)
        await ended(client, batch.id)
        with pytest.raises(openai.ConflictError, match="failed") as refused:
            await client.batches.cancel(batch.id)

    assert refused.value.response.headers["x-should-retry"] == "false"
    assert refused.value.type == "invalid_request_error"


async def test_an_idempotency_key_makes_one_batch_of_two_calls(server: Any) -> None:
    headers = {"Idempotency-Key": "once"}
    async with server.openai() as client:
        first = await client.batches.create(**GOOD, extra_headers=headers)
        second = await client.batches.create(**GOOD, extra_headers=headers)
        with pytest.raises(openai.ConflictError):
            await client.batches.create(
                **{**GOOD, "completion_window": "1h"}, extra_headers=headers
            )
        with pytest.raises(openai.BadRequestError):
            await client.batches.create(**GOOD, extra_headers={"Idempotency-Key": "k" * 256})

    assert first.id == second.id


async def test_failures_are_counted_by_code_and_can_be_retried(server: Any) -> None:
    def refuse_odd(call: Call) -> Answer:
        text = json.loads(call.body)["messages"][0]["content"]
        if int(text.split()[1]) % 2:
            return Answer(400, {}, b'{"error": {"message": "odd"}}')
        return Answer(200, {}, chat_answer(text))

    server.upstream.answer = refuse_odd
    async with server.openai() as client, server.http() as http:
        source = chat_lines(10)
        file = await client.files.create(file=source, purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            completion_window="1h",
            metadata={"job": "x"},
        )
        first = await ended(client, batch.id)
        assert first.status == "completed"
        assert first.model_extra["batchwright"]["failed_by_code"] == {"400": 5}

        server.upstream.answer = lambda call: Answer(200, {}, chat_answer("now even"))
        again = await http.post(
            f"/v1/batches/{batch.id}/retry", headers={"Idempotency-Key": "again"}
        )
        twice = await http.post(
            f"/v1/batches/{batch.id}/retry", headers={"Idempotency-Key": "again"}
        )
        made = again.json()
        assert again.status_code == 200, made
        assert twice.json()["id"] == made["id"]
        assert made["completion_window"] == "1h"
        assert made["metadata"] == {"job": "x"}
        assert made["batchwright"]["retry_of"] == batch.id
        lines = (await client.files.content(made["input_file_id"])).content.splitlines()
        assert lines == source.splitlines()[1::2]

        second = await ended(client, made["id"])
        assert second.request_counts.completed == 5
        nothing = await http.post(f"/v1/batches/{made['id']}/retry")
        assert nothing.status_code == 400
        assert len((await client.files.list(purpose="batch")).data) == 2


async def test_results_are_read_while_the_batch_runs(server: Any) -> None:
    async with server.openai() as client, server.http() as http:
        file = await client.files.create(
            file=chat_lines(30, "builtin/echo") + chat_line("held").encode(), purpose="batch"
        )
        server.upstream.gate.clear()
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        await server.upstream.called.wait()
        seen: list[str] = []
        cursor = None
        while len(seen) < 30:
            params = {"limit": 7} | ({"after": cursor} if cursor else {})
            page = (await http.get(f"/v1/batches/{batch.id}/results", params=params)).json()
            assert len(page["data"]) <= 7
            seen += [line["custom_id"] for line in page["data"]]
            cursor = page["next"]
        running = (await http.get(f"/v1/batches/{batch.id}")).json()
        refused = await http.post(f"/v1/batches/{batch.id}/retry")
        server.upstream.gate.set()
        await ended(client, batch.id)
        last = (await http.get(f"/v1/batches/{batch.id}/results", params={"after": cursor})).json()

    assert sorted(seen) == sorted(f"r-{at}" for at in range(30))
    assert running["status"] == "in_progress"
    assert running["request_counts"] == {"total": 31, "completed": 30, "failed": 0}
    assert running["model"] is None
    assert sorted(running["batchwright"]) == [
        "attempts",
        "cache",
        "cost_usd",
        "dedupe",
        "expected_finish_at",
        "expected_finish_between",
        "failed_by_code",
        "held_back_by",
        "limit",
        "order",
        "paused_at",
        "possibly_paid_twice",
        "priority",
        "problem",
        "requests_per_s",
        "retry_of",
        "savings",
    ]
    assert running["batchwright"]["possibly_paid_twice"] == {"requests": 0, "lines": []}
    assert refused.status_code == 409
    assert [line["custom_id"] for line in last["data"]] == ["held"]
    assert last["has_more"] is False


async def test_a_result_that_is_not_what_was_written_is_not_handed_out(server: Any) -> None:
    async with server.openai() as client, server.http() as http:
        file = await client.files.create(file=chat_lines(50, "builtin/echo"), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        done = await ended(client, batch.id)
        content = (await client.files.content(done.output_file_id)).content
        (path,) = (server.folder / "blobs" / "batches" / batch.id).glob("*/output")
        middle = content.index(b"text 25")
        path.write_bytes(content[:middle] + b"TEXT" + content[middle + 4 :])

        with pytest.raises(httpx.RemoteProtocolError):  # it breaks off
            await http.get(f"/v1/files/{done.output_file_id}/content")

    assert len(content.splitlines()) == 50


async def test_a_cursor_that_is_not_ours_is_400(server: Any) -> None:
    async with server.http() as http:
        batch = (await http.post("/v1/batches", json=GOOD)).json()
        answer = await http.get(f"/v1/batches/{batch['id']}/results?after=nonsense")

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "after"


async def test_a_tenant_has_only_so_many_open_batches(tmp_path: Path) -> None:
    settings = ServerSettings(open_batches_per_tenant=2)
    async with (
        running_server(tmp_path, settings) as server,
        server.openai() as client,
        server.openai("other") as other,
    ):
        server.upstream.gate.clear()
        made = [await _batch(client) for _ in range(2)]
        with pytest.raises(openai.RateLimitError, match="2 batches are open") as refused:
            await _batch(client)
        await _batch(other)
        server.upstream.gate.set()
        await server.engine.wait(made[0].id)
        again = await _batch(client)

    assert refused.value.response.headers["x-should-retry"] == "false"
    assert again.id not in [batch.id for batch in made]


async def test_a_repeat_of_what_was_acknowledged_is_refused_by_no_limit(
    tmp_path: Path, monkeypatch: Any
) -> None:
    settings = ServerSettings(open_batches_per_tenant=1)
    headers = {"Idempotency-Key": "once"}
    async with running_server(tmp_path, settings) as server, server.http() as http:
        server.upstream.answer = lambda call: Answer(400, {}, b"{}")
        async with server.openai() as client:
            ended_one = await ended(client, (await _batch(client)).id)
        retry = f"/v1/batches/{ended_one.id}/retry"
        server.upstream.gate.clear()
        first = await http.post(retry, headers=headers)
        monkeypatch.setattr(server.engine, "is_short_of_space", True)
        counted = await _batches_created(http)
        again = await http.post(retry, headers=headers)
        other = await http.post(retry, headers={"Idempotency-Key": "twice"})
        conflict = await http.post(retry, headers=headers, json={"completion_window": "1h"})

        assert first.status_code == 200, first.text
        assert again.json()["id"] == first.json()["id"]
        assert (other.status_code, conflict.status_code) == (507, 409)
        assert await _batches_created(http) == counted == 2
        server.upstream.gate.set()


async def test_a_repeated_create_gives_its_batch_whatever_is_full_by_now(
    tmp_path: Path, monkeypatch: Any
) -> None:
    settings = ServerSettings(open_batches_per_tenant=1)
    async with (
        running_server(tmp_path, settings) as server,
        server.openai() as client,
        server.http() as http,
    ):
        server.upstream.gate.clear()
        file = await client.files.create(file=("in.jsonl", chat_lines(1)), purpose="batch")
        body = {**GOOD, "input_file_id": file.id}
        headers = {"Idempotency-Key": "once"}
        first = await http.post("/v1/batches", json=body, headers=headers)
        at_limit = await http.post("/v1/batches", json=body, headers=headers)
        monkeypatch.setattr(server.engine, "is_short_of_space", True)
        without_room = await http.post("/v1/batches", json=body, headers=headers)
        new = await http.post("/v1/batches", json=body)

        assert at_limit.json()["id"] == without_room.json()["id"] == first.json()["id"]
        assert new.status_code == 507
        assert await _batches_created(http) == 1
        server.upstream.gate.set()


async def test_a_refused_retry_leaves_no_file(server: Any, monkeypatch: Any) -> None:
    async def refuse(*args: Any, **kwargs: Any) -> Any:
        raise NoSpace("full")

    server.upstream.answer = lambda call: Answer(400, {}, b"{}")
    async with server.openai() as client, server.http() as http:
        batch = await ended(client, (await _batch(client)).id)
        monkeypatch.setattr(server.engine, "create_batch", refuse)
        refused = await http.post(f"/v1/batches/{batch.id}/retry")
        files = (await client.files.list()).data

    assert refused.status_code == 507
    assert sorted(file.filename for file in files) == [f"{batch.id}_error.jsonl", "in.jsonl"]


async def test_a_replayed_retry_copies_no_input(server: Any) -> None:
    server.upstream.answer = lambda call: Answer(400, {}, b"{}")
    async with server.openai() as client, server.http() as http:
        batch = await ended(client, (await _batch(client)).id)
        headers = {"Idempotency-Key": "once"}
        made = (await http.post(f"/v1/batches/{batch.id}/retry", headers=headers)).json()
        await ended(client, made["id"])
        before = server.blobs_on_disk()
        again = (await http.post(f"/v1/batches/{batch.id}/retry", headers=headers)).json()

    assert (again["id"], again["status"]) == (made["id"], "completed")
    assert server.blobs_on_disk() == before


async def test_an_input_that_has_expired_is_as_one_that_was_deleted(
    server: Any, monkeypatch: Any
) -> None:
    async with server.openai() as client:
        file = await client.files.create(file=("in.jsonl", chat_lines(1)), purpose="batch")
        now = server.engine.runtime.now()
        monkeypatch.setattr(server.engine.runtime, "now", lambda: now + 31 * 86_400)
        listed = await client.files.list()
        batch = await client.batches.create(**{**GOOD, "input_file_id": file.id})
        done = await ended(client, batch.id)
        with pytest.raises(openai.NotFoundError):
            await client.files.delete(file.id)

    assert listed.data == []
    assert done.status == "failed"
    assert "Cannot find file" in done.errors.data[0].message


async def _batches_created(http: Any) -> int:
    metrics = (await http.get("/metrics")).text
    [line] = [line for line in metrics.splitlines() if line.startswith(_CREATED)]
    return int(float(line.split()[1]))


_CREATED = "batchwright_batches_created_total "


async def _batch(client: openai.AsyncOpenAI) -> Any:
    file = await client.files.create(file=("in.jsonl", chat_lines(1)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
