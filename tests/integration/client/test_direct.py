from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from batchwright.client import direct
from batchwright.client.direct import process_batch, process_batch_async
from batchwright.client.errors import RequestFailure, RequestsFailed
from batchwright.domain.errors import UsageError
from batchwright.domain.result import ANSWER_BYTES_MAX
from fake_openai_batch import FakeOpenAI
from sandbox_process import SandboxProcess

CHAT = ("POST", "/v1/chat/completions")
AGAIN = {"retry-after-ms": "1"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    monkeypatch.setattr(direct, "BACKOFF_FIRST_S", 0.001)
    with FakeOpenAI() as fake:
        yield fake


def ask(server: FakeOpenAI, items: Any, **more: Any) -> list[Any]:
    return process_batch(items, server.api_key, "m", base_url=server.base_url, **more)


def test_answers_come_in_the_order_of_the_items(server: FakeOpenAI) -> None:
    items = [f"text {number}" for number in range(300)]

    answers = ask(server, items, max_concurrent=20)

    assert answers == [f"echo {item}" for item in items]


async def test_both_forms_work_inside_a_running_loop(server: FakeOpenAI) -> None:
    url = server.base_url

    answers = await process_batch_async(["a"], server.api_key, "m", base_url=url)

    assert answers == ask(server, ["a"]) == ["echo a"]


def test_no_items_are_no_calls(server: FakeOpenAI) -> None:
    assert ask(server, []) == []
    assert server.calls == []


def test_no_more_calls_are_under_way_than_allowed(server: FakeOpenAI) -> None:
    answers = ask(server, range_of_texts(60), max_concurrent=3)

    assert len(answers) == server.count(*CHAT) == 60
    assert 1 <= server.active_max <= 3


def range_of_texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def test_embeddings_give_vectors(server: FakeOpenAI) -> None:
    assert ask(server, ["a", "bb"], endpoint="/embeddings") == [[1.0, 0.5], [2.0, 0.5]]


def test_any_json_endpoint_takes_a_function_that_makes_the_body(server: FakeOpenAI) -> None:
    answers = ask(server, ["a"], endpoint="/rerank", body=lambda item: {"query": item}, top_n=3)

    assert answers == [{"echo": {"model": "m", "top_n": 3, "query": "a"}}]


def test_fixed_fields_can_be_a_dict(server: FakeOpenAI) -> None:
    answers = ask(server, ["a cat"], endpoint="/images/generations", body={"size": "small"})

    assert answers == [{"echo": {"model": "m", "size": "small", "prompt": "a cat"}}]


def test_a_failure_stands_in_its_place_and_is_falsy(server: FakeOpenAI) -> None:
    server.faults[CHAT] = [{"status": 400, "code": "bad_thing"}]

    answers = ask(server, ["a", "b"], max_concurrent=1)

    assert answers == [RequestFailure("bad_thing", "a fault", 400), "echo b"]
    assert not answers[0]
    assert server.count(*CHAT) == 2


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"choices": "\xff"}', b"[" * 100_000], ids=["a page", "no UTF-8", "deep"]
)
def test_an_answer_that_cannot_be_read_costs_its_item_alone(
    server: FakeOpenAI, body: bytes
) -> None:
    server.faults[CHAT] = [{"status": 200, "body": body}]

    answers = ask(server, ["a", "b"], max_concurrent=1, max_attempts=1)

    assert answers == [RequestFailure("invalid_answer", "the answer is not JSON", 200), "echo b"]


def test_an_answer_above_the_limit_is_asked_for_once_and_costs_its_item_alone(
    server: FakeOpenAI,
) -> None:
    server.faults[CHAT] = [{"status": 200, "body": b" " * (ANSWER_BYTES_MAX + 1)}]

    answers = ask(server, ["a", "b"], max_concurrent=1)

    too_large = "the answer is larger than 16777216 bytes"
    assert answers == [RequestFailure("response_too_large", too_large), "echo b"]
    assert server.count(*CHAT) == 2


def test_raising_waits_for_the_end_and_keeps_the_answers(server: FakeOpenAI) -> None:
    server.faults[CHAT] = [{"status": 400, "code": "bad_thing"}]

    with pytest.raises(RequestsFailed, match="1 of 2 requests failed") as raised:
        ask(server, ["a", "b"], max_concurrent=1, on_error="raise")

    assert raised.value.answers[1] == "echo b"
    assert raised.value.failures[0].code == "bad_thing"


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503, "headers": AGAIN},
        {"status": 429},
        {"status": 429, "headers": AGAIN},
        {"status": 408},
        {"close": True},
        {"status": 200, "text": "<html>"},
    ],
)
def test_passing_failures_are_tried_again(server: FakeOpenAI, fault: dict[str, Any]) -> None:
    server.faults[CHAT] = [fault, fault]

    assert ask(server, ["a"]) == ["echo a"]
    assert server.count(*CHAT) == 3


def test_attempts_end(server: FakeOpenAI) -> None:
    server.faults[CHAT] = [{"status": 500, "code": "down"}] * 50

    answers = ask(server, ["a"], max_attempts=3)

    assert answers == [RequestFailure("down", "a fault", 500)]
    assert server.count(*CHAT) == 3


def test_refusals_for_the_rate_use_up_no_attempt_while_others_get_through(
    server: FakeOpenAI,
) -> None:
    server.faults[CHAT] = [{"status": 429, "headers": AGAIN}] * 40

    assert ask(server, ["a"], max_attempts=2) == ["echo a"]


def test_refusals_without_end_give_up_when_patience_does(server: FakeOpenAI) -> None:
    server.faults[CHAT] = [{"status": 429, "code": "slow", "headers": AGAIN}] * 500

    answers = ask(server, ["a"], max_attempts=2, patience_s=0)

    assert answers == [RequestFailure("slow", "a fault", 429)]


@pytest.mark.parametrize("fault", [{"status": 401}, {"status": 429, "code": "insufficient_quota"}])
def test_what_no_request_can_cure_stops_all(server: FakeOpenAI, fault: dict[str, Any]) -> None:
    server.faults[CHAT] = [fault]

    answers = ask(server, range_of_texts(100), max_concurrent=1)

    assert {answer.status for answer in answers} == {fault["status"]}
    assert server.count(*CHAT) == 1


def test_a_bad_first_item_is_refused_before_anything_is_sent(server: FakeOpenAI) -> None:
    with pytest.raises(UsageError, match="item 0"):
        ask(server, [None, "b"])

    assert server.calls == []


@pytest.mark.parametrize("option", ["dedupe", "order", "batch_options", "completion_window"])
def test_an_option_of_batches_is_refused_and_says_where_it_goes(
    server: FakeOpenAI, option: str
) -> None:
    with pytest.raises(UsageError, match=f"^{option}: .* no field of a request; .*BatchProcessor"):
        ask(server, ["a"], **{option: True})

    assert server.calls == []


def test_a_bad_later_item_costs_the_others_nothing(server: FakeOpenAI) -> None:
    answers = ask(server, ["a", float("nan"), "c"])

    assert [answers[0], answers[2]] == ["echo a", "echo c"]
    assert answers[1].code == "invalid_item"


def test_an_error_inside_a_success_is_a_failure(server: FakeOpenAI) -> None:
    server.answer = lambda path, body: {"error": {"code": "odd", "message": "no"}}

    assert ask(server, ["a"]) == [RequestFailure("odd", "no", 200)]


def test_a_rate_limited_upstream_answers_all_in_the_end() -> None:
    with SandboxProcess("--port", "0", "--rpm", "6000", "--latency", "2ms") as sandbox:
        answers = process_batch(
            range_of_texts(250), "k", "m", max_concurrent=50, base_url=sandbox.base_url
        )

    assert all(answers)


def test_one_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(UsageError, match="items must be a list of items, not one str"):
        process_batch("abc", "k", "m")
