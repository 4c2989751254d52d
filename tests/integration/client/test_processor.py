from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from batchwright.client import http
from batchwright.client.blocking import BatchProcessor
from batchwright.client.errors import BatchInvalid, RequestFailure, ServerFailed, ServerUnreachable
from batchwright.client.processor import AsyncBatchProcessor, poll_delays, until_poll_s
from batchwright.domain.errors import UsageError
from fake_openai_batch import FakeBatch, FakeOpenAI, echo_all, http_failure, not_run, success

POLL_S = 0.001
ITEMS = [f"text {number}" for number in range(12)]
ANSWERS = [f"echo {item}" for item in ITEMS]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setattr(http, "BACKOFF_FIRST_S", 0.001)
    with FakeOpenAI() as fake:
        yield fake


@pytest.fixture
def processor(server: FakeOpenAI) -> Iterator[BatchProcessor]:
    with BatchProcessor(server.api_key, server.base_url) as opened:
        yield opened


def parted(server: FakeOpenAI, requests_max: int = 5) -> BatchProcessor:
    return BatchProcessor(server.api_key, server.base_url, requests_max=requests_max)


def failing(*numbers: int) -> Any:
    """A script in which the requests of these numbers fail, the results in reverse order."""

    def script(batch: FakeBatch) -> None:
        bad = [r for r in batch.requests if int(r["custom_id"].split("-")[1]) in numbers]
        good = [r for r in batch.requests if r not in bad]
        batch.finish([success(r) for r in reversed(good)], [http_failure(r) for r in bad])

    return script


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the input file


def test_only_what_is_given_goes_into_the_body(tmp_path: Path) -> None:
    processor = BatchProcessor("k", "http://127.0.0.1:1/v1")

    path = processor.create_batch_file(ITEMS, "Be short.", "m", tmp_path / "in.jsonl", top_p=1)

    first = read(path)[0]
    assert list(first) == ["custom_id", "method", "url", "body"]
    assert (first["custom_id"], first["url"]) == ("request-01", "/v1/chat/completions")
    assert set(first["body"]) == {"model", "messages", "top_p"}


def test_an_embeddings_file_has_one_request_per_text(tmp_path: Path) -> None:
    processor = BatchProcessor("k", "http://127.0.0.1:1/v1")

    path = processor.create_embeddings_file(["a", "b"], "m", tmp_path / "e.jsonl", dimensions=8)

    assert [request["url"] for request in read(path)] == ["/v1/embeddings"] * 2
    assert read(path)[1]["body"] == {"model": "m", "dimensions": 8, "input": "b"}


def test_a_generator_and_own_ids_will_do(tmp_path: Path) -> None:
    processor = BatchProcessor("k", "http://127.0.0.1:1/v1")
    items = ({"id": name, "content": "x"} for name in "ab")

    path = processor.create_batch_file(items, model="m", output_path=tmp_path / "in.jsonl")

    assert [request["custom_id"] for request in read(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["fine", None], "item 2: an item must be"),
        ([{"id": 1, "content": "a"}, {"id": 1, "content": "b"}], "item 2: the id '1' is taken"),
        ([], "no items"),
        ("one text", "a list of items"),
    ],
)
def test_a_bad_item_is_named_and_leaves_no_file(tmp_path: Path, items: Any, message: str) -> None:
    processor = BatchProcessor("k", "http://127.0.0.1:1/v1")

    with pytest.raises(UsageError, match=message):
        processor.create_batch_file(items, None, "m", tmp_path / "in.jsonl")

    assert not (tmp_path / "in.jsonl").exists()


@pytest.mark.parametrize("name", ["dedupe", "order", "priority", "cache", "completion_window"])
def test_an_option_of_a_batch_is_no_field_of_its_requests(tmp_path: Path, name: str) -> None:
    processor = BatchProcessor("k", "http://127.0.0.1:1/v1")
    params: Any = {name: "high"}

    with pytest.raises(UsageError, match=f"{name}: an option of the batch"):
        processor.run(["a"], None, "m", tmp_path / "in.jsonl", **params)

    assert not (tmp_path / "in.jsonl").exists()


# --- the whole way


def test_options_of_the_batch_are_sent_with_it_and_not_with_its_requests(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    with parted(server) as processor:
        processor.run(ITEMS, None, "m", poll_interval=POLL_S, batch_options={"dedupe": True})
        path = processor.create_batch_file(["a"], None, "m", tmp_path / "in.jsonl")
        processor.submit_batch(path, batch_options={"order": "prefix"})

    *parts, last = server.batches.values()
    assert [batch.wire["batchwright"] for batch in parts] == [{"dedupe": True}] * 3
    assert last.wire["batchwright"] == {"order": "prefix"}
    assert set(parts[0].requests[0]["body"]) == {"model", "messages"}


def test_results_come_in_the_order_of_the_items(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    server.script = failing()

    results = processor.run(ITEMS, "Be short.", "m", poll_interval=POLL_S)

    assert [result["response"] for result in results] == ANSWERS
    assert results[0] == {
        "id": "request-01",
        "response": "echo text 0",
        "tokens": 5,
        "error": None,
    }


async def test_the_blocking_form_works_inside_a_running_loop(server: FakeOpenAI) -> None:
    with BatchProcessor(server.api_key, server.base_url) as processor:
        results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert len(results) == len(ITEMS)


async def test_the_asynchronous_form_does_the_same(server: FakeOpenAI, tmp_path: Path) -> None:
    async with AsyncBatchProcessor(server.api_key, server.base_url) as processor:
        path = await processor.create_batch_file(ITEMS, None, "m", tmp_path / "in.jsonl")
        batch_id = await processor.submit_batch(path, "nightly")
        results = await processor.wait_and_download(batch_id, POLL_S)

    assert [result["response"] for result in results] == ANSWERS
    assert server.batches[batch_id].wire["metadata"]["description"] == "nightly"


def test_embeddings_put_the_vector_into_the_response(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    results = processor.run(["a", "bb"], model="m", endpoint="/v1/embeddings", poll_interval=POLL_S)

    assert [result["response"] for result in results] == [[1.0, 0.5], [2.0, 0.5]]


def test_own_ids_keep_the_order_of_the_input(server: FakeOpenAI, processor: BatchProcessor) -> None:
    def reverse(batch: FakeBatch) -> None:
        batch.finish([success(request) for request in reversed(batch.requests)])

    server.script = reverse
    items = [{"id": name, "content": name} for name in ("zebra", "ant", "bear")]

    results = processor.run(items, model="m", poll_interval=POLL_S)

    assert [result["id"] for result in results] == ["zebra", "ant", "bear"]


def test_own_ids_that_look_like_ours_keep_the_order_of_the_input(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    items = [{"id": f"request-{number}", "content": "x"} for number in (3, 1, 2)]

    results = processor.run(items, model="m", poll_interval=POLL_S)

    assert [result["id"] for result in results] == ["request-3", "request-1", "request-2"]


def test_the_order_of_our_ids_needs_no_input_file(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    server.script = failing(3)

    processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert server.batches["batch_1"].wire["metadata"] == {"request_ids": "01-12"}
    assert not server.count("GET", "/v1/files/file-1/content")


def test_failures_stand_in_their_place(server: FakeOpenAI, processor: BatchProcessor) -> None:
    server.script = failing(3)

    results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert results[2]["response"] is None
    assert results[2]["error"] == RequestFailure("bad_thing", "it is bad", 400)
    assert sum(result["error"] is None for result in results) == len(ITEMS) - 1


def test_a_batch_of_failures_alone_has_no_output_file(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    server.script = failing(*range(1, 13))

    results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert not any(result["error"] for result in results)  # failures are falsy
    assert all(result["error"] is not None for result in results)


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_an_unfinished_batch_returns_what_there_is(
    server: FakeOpenAI, processor: BatchProcessor, status: str
) -> None:
    def stop_early(batch: FakeBatch) -> None:
        done, rest = batch.requests[:4], batch.requests[4:]
        failures = [not_run(request, f"batch_{status}") for request in rest]
        batch.finish([success(request) for request in done], failures, status)

    server.script = stop_early

    results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert [result["response"] for result in results[:4]] == ANSWERS[:4]
    assert {result["error"].code for result in results[4:] if result["error"] is not None} == {
        f"batch_{status}"
    }


def test_requests_without_any_line_become_failures_too(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    def forget(batch: FakeBatch) -> None:
        batch.finish([success(request) for request in batch.requests[1:]], status="cancelled")
        batch.wire["request_counts"] = None

    server.script = forget

    results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert len(results) == len(ITEMS)
    assert results[0]["error"] is not None
    assert results[0]["error"].code == "batch_cancelled"


def test_a_refused_input_raises_with_its_lines(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    error = {"code": "invalid_url", "message": "wrong url", "param": "url", "line": 2}
    server.script = lambda batch: batch.invalid([error])

    with pytest.raises(BatchInvalid, match="line 2: wrong url") as raised:
        processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert raised.value.errors[0].param == "url"
    assert raised.value.batch_id == processor.last_batch_id == "batch_1"


# --- many batches


def test_a_large_input_becomes_batches_side_by_side_and_one_result(
    server: FakeOpenAI, tmp_path: Path
) -> None:
    server.script = failing(2, 11)
    with parted(server) as processor:
        path = processor.create_batch_file(ITEMS, None, "m", tmp_path / "in.jsonl")
        batch_id = processor.submit_batch(path)
        results = processor.wait_and_download(batch_id, POLL_S)
        status = processor.status(batch_id)

    assert batch_id == "batch_1,batch_2,batch_3"
    assert [len(batch.lines) for batch in server.batches.values()] == [5, 5, 2]
    assert [result["response"] for result in results] == [
        None if number in (2, 11) else answer for number, answer in enumerate(ANSWERS, 1)
    ]
    assert (status.status, status.total, status.failed) == ("completed", 12, 2)


def test_refused_lines_count_through_the_whole_job(server: FakeOpenAI) -> None:
    def refuse_the_second(batch: FakeBatch) -> None:
        if batch.wire["id"] == "batch_2":
            batch.invalid([{"code": "x", "message": "bad", "line": 3}])
        else:
            echo_all(batch)

    server.script = refuse_the_second
    with parted(server) as processor, pytest.raises(BatchInvalid) as raised:
        processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert raised.value.errors[0].line == 8


def test_when_a_part_is_refused_the_rest_is_cancelled_and_its_answers_are_kept(
    server: FakeOpenAI,
) -> None:
    def script(batch: FakeBatch) -> None:
        if batch.wire["id"] == "batch_2":
            batch.invalid([{"code": "x", "message": "bad", "line": 1}])
        elif batch.wire["id"] == "batch_1":
            echo_all(batch)

    server.script = script
    with parted(server) as processor, pytest.raises(BatchInvalid) as raised:
        processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert server.batches["batch_3"].wire["status"] == "cancelled"
    assert raised.value.cancelled == ("batch_3",)
    assert "The rest of its input was cancelled: batch_3" in str(raised.value)
    assert [result["response"] for result in raised.value.results] == [*ANSWERS[:5], None, None]


def test_batches_of_other_jobs_are_not_cancelled_for_one_that_is_refused(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    def script(batch: FakeBatch) -> None:
        if batch.wire["id"] == "batch_2":
            batch.invalid([{"code": "x", "message": "bad", "line": 1}])

    def finish_later(batch: FakeBatch) -> None:
        if batch.polls > 3 and batch.wire["status"] == "validating":
            echo_all(batch)

    server.script, server.on_poll = script, finish_later
    with TemporaryDirectory() as folder:
        path = processor.create_batch_file(ITEMS, None, "m", Path(folder, "in.jsonl"))
        ids = [processor.submit_batch(path), processor.submit_batch(path)]

    with pytest.raises(BatchInvalid) as raised:
        processor.wait_and_download(",".join(ids), POLL_S)

    assert server.batches["batch_1"].wire["status"] == "completed"
    assert [result["response"] for result in raised.value.results] == ANSWERS


@pytest.mark.parametrize("fault", [{"close": True}, {"status": 500}])
def test_a_batch_whose_answer_was_lost_is_found_and_not_made_twice(
    server: FakeOpenAI, processor: BatchProcessor, fault: dict[str, Any]
) -> None:
    server.faults["POST", "/v1/batches"] = [{**fault, "after": True}]

    results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert [result["response"] for result in results] == ANSWERS
    assert list(server.batches) == ["batch_1"]


@pytest.mark.parametrize("fault", [{"close": True}, {"status": 500}, {"status": 429}])
def test_a_batch_that_was_not_made_is_asked_for_again(
    server: FakeOpenAI, processor: BatchProcessor, fault: dict[str, Any]
) -> None:
    server.faults["POST", "/v1/batches"] = [fault]

    processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert server.count("POST", "/v1/batches") == 2
    assert list(server.batches) == ["batch_1"]


def test_when_one_batch_cannot_be_created_the_others_are_cancelled(server: FakeOpenAI) -> None:
    def refuse_the_next(batch: FakeBatch) -> None:
        server.faults["POST", "/v1/batches"] = [{"status": 400}]

    server.script = refuse_the_next
    with parted(server) as processor, pytest.raises(http.BadRequest):
        processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert [batch.wire["status"] for batch in server.batches.values()] == ["cancelled"]


def test_cancel_leaves_alone_what_has_ended(server: FakeOpenAI, tmp_path: Path) -> None:
    def finish_the_first(batch: FakeBatch) -> None:
        if batch.wire["id"] == "batch_1":
            echo_all(batch)

    server.script = finish_the_first
    with parted(server) as processor:
        path = processor.create_batch_file(ITEMS, None, "m", tmp_path / "in.jsonl")
        status = processor.cancel(processor.submit_batch(path))

    assert [batch["status"] for batch in status.batches] == ["completed"] + ["cancelled"] * 2
    assert status.is_done


# --- retrying


def test_a_retry_sends_only_what_failed_and_merges(server: FakeOpenAI) -> None:
    server.script = failing(2, 5, 11)
    with parted(server) as processor:
        processor.run(ITEMS, "Be short.", "m", poll_interval=POLL_S)
        first_id = processor.last_batch_id
        assert first_id is not None
        server.script = failing(5)

        results = processor.retry_failed(first_id, POLL_S)

        retried = server.batches["batch_4"]
        originals = [line for b in list(server.batches.values())[:3] for line in b.lines]
        assert retried.lines == [originals[1], originals[4], originals[10]]
        assert [result["error"] is None for result in results].count(False) == 1
        assert results[4]["error"] is not None
        assert [r["id"] for r in results] == [f"request-{n:02d}" for n in range(1, 13)]

        server.script = echo_all
        assert processor.last_batch_id == first_id + ",batch_4"
        results = processor.retry_failed(processor.last_batch_id, POLL_S)

    assert [result["response"] for result in results] == ANSWERS
    assert len(server.batches["batch_5"].lines) == 1


def test_the_string_of_a_retried_job_gives_the_merged_results_in_a_new_session(
    server: FakeOpenAI,
) -> None:
    server.script = failing(2)
    with parted(server) as processor:
        processor.run(ITEMS, None, "m", poll_interval=POLL_S)
        server.script = echo_all
        processor.retry_failed(processor.last_batch_id or "", POLL_S)
        batch_id = processor.last_batch_id

    with BatchProcessor(server.api_key, server.base_url) as later:
        results = later.wait_and_download(batch_id or "", POLL_S)

    assert [result["response"] for result in results] == ANSWERS


def test_without_failures_a_retry_sends_nothing(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert processor.retry_failed("batch_1", POLL_S) == results
    assert len(server.batches) == 1


def test_a_refusal_is_told_and_not_asked_again(
    server: FakeOpenAI, processor: BatchProcessor
) -> None:
    def refuse(batch: FakeBatch) -> None:
        lines = [success(request) for request in batch.requests]
        lines[0]["response"]["body"]["choices"][0]["message"] = {"refusal": "I will not"}
        batch.finish(lines)

    server.script = refuse

    results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert results[0]["error"] == RequestFailure("refused", "I will not")
    assert results[0]["tokens"] == 5
    assert processor.retry_failed("batch_1", POLL_S) == results
    assert len(server.batches) == 1


def test_a_retry_needs_the_local_file_when_the_server_lost_the_input(
    server: FakeOpenAI, processor: BatchProcessor, tmp_path: Path
) -> None:
    server.script = failing(1)
    path = processor.create_batch_file(ITEMS, None, "m", tmp_path / "in.jsonl")
    batch_id = processor.submit_batch(path)
    del server.files[server.batches[batch_id].wire["input_file_id"]]
    server.script = echo_all

    with pytest.raises(UsageError, match="input_path"):
        processor.retry_failed(batch_id, POLL_S)
    results = processor.retry_failed(batch_id, POLL_S, input_path=path)

    assert [result["response"] for result in results] == ANSWERS


# --- waiting


def test_polls_grow_from_one_second_to_a_minute() -> None:
    delays = poll_delays()
    first = [next(delays) for _ in range(20)]

    assert first[:3] == [1.0, 1.5, 2.25]
    assert first[-1] == 60.0
    assert next(poll_delays(7)) == 7


@pytest.mark.parametrize(
    ("expected", "slept_s"),
    [
        ([1012], 12),  # no longer than to the end
        ([1500], 60),  # far away: as without it
        ([990], 1),  # overdue: seldom enough all the same
        ([1005, 1012], 12),  # of several batches the last counts
        ([1005, None], 60),  # one of them is not known
    ],
)
def test_a_wait_ends_soon_after_the_end_that_the_server_expects(
    expected: list[int | None], slept_s: float
) -> None:
    batches: list[dict[str, Any]] = [
        {"status": "in_progress", "batchwright": {"expected_finish_at": at}} for at in expected
    ]
    ended = {"status": "completed", "batchwright": {"expected_finish_at": None}}

    assert until_poll_s(60, [*batches, ended], now=1000) == slept_s


def test_a_server_that_expects_no_end_is_asked_as_always() -> None:
    assert until_poll_s(60, [{"status": "in_progress"}], now=1000) == 60


def test_it_waits_through_every_state(server: FakeOpenAI, processor: BatchProcessor) -> None:
    states = ["validating", "queued", "in_progress", "finalizing"]

    def step(batch: FakeBatch) -> None:
        if batch.polls <= len(states):
            batch.wire["status"] = states[batch.polls - 1]
        elif not batch.wire["output_file_id"]:
            echo_all(batch)

    server.script = lambda batch: None
    server.on_poll = step

    results = processor.run(ITEMS, None, "m", poll_interval=POLL_S)

    assert len(results) == len(ITEMS)


def test_an_outage_of_the_server_does_not_end_the_wait(
    server: FakeOpenAI, processor: BatchProcessor, tmp_path: Path
) -> None:
    path = processor.create_batch_file(ITEMS, None, "m", tmp_path / "in.jsonl")
    batch_id = processor.submit_batch(path)
    down = {"status": 503, "headers": {"retry-after-ms": "1"}}
    server.faults["GET", "/v1/batches"] = [down] * 12

    assert len(processor.wait_and_download(batch_id, POLL_S)) == len(ITEMS)


def test_an_outage_that_does_not_end_is_raised(
    server: FakeOpenAI, processor: BatchProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchwright.client.processor.OUTAGE_MAX_S", -1.0)
    down = {"status": 503, "headers": {"retry-after-ms": "1"}}
    server.faults["GET", "/v1/batches"] = [down] * 100

    with pytest.raises((ServerFailed, ServerUnreachable)):
        processor.wait("batch_1", POLL_S)


def test_an_unknown_batch_is_said_at_once(processor: BatchProcessor) -> None:
    with pytest.raises(http.ObjectNotFound, match="No batch found"):
        processor.wait_and_download("batch_unknown", POLL_S)


def test_an_empty_id_is_refused(processor: BatchProcessor) -> None:
    with pytest.raises(UsageError, match="batch_id"):
        processor.status(" , ")


@pytest.mark.parametrize("name", ["", "nowhere/in.jsonl"])
def test_an_input_file_needs_a_place(processor: BatchProcessor, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="output_path: expected a file in a folder that exists"):
        processor.create_batch_file(["a"], model="m", output_path=tmp_path / name)
