from __future__ import annotations

import json

import pytest

from batchwright.client.errors import RequestFailure
from batchwright.client.results import (
    Results,
    custom_id,
    failed,
    in_order_of,
    merge,
    read_result,
)
from batchwright.domain.errors import BatchwrightError

FAILURE = RequestFailure("bad", "it is bad", 400)


def result_line(response: object = None, error: object = None) -> bytes:
    return json.dumps({"custom_id": "1", "response": response, "error": error}).encode()


def results(**ok: bool) -> Results:
    return {
        name: {"id": name, "response": name, "tokens": 1, "error": None}
        if good
        else failed(name, FAILURE)
        for name, good in ok.items()
    }


def test_a_failure_is_falsy_and_readable() -> None:
    assert not FAILURE
    assert str(FAILURE) == "it is bad (bad, HTTP 400)"


def test_a_success_has_answer_and_tokens() -> None:
    body = {"choices": [{"message": {"content": "hi"}}], "usage": {"total_tokens": 4}}

    result = read_result(result_line({"status_code": 200, "body": body}), "/chat/completions")

    assert result == {"id": "1", "response": "hi", "tokens": 4, "error": None}


@pytest.mark.parametrize(
    ("line", "code", "status"),
    [
        (result_line(None, {"code": "batch_expired", "message": "late"}), "batch_expired", None),
        (result_line({"status_code": 429, "body": {"error": {"code": "slow"}}}), "slow", 429),
        (result_line({"status_code": 500, "body": {"error": "oops"}}), "http_500", 500),
        (result_line({"status_code": 502, "body": "<html>"}), "http_502", 502),
        (result_line({"status_code": 200, "body": {"error": {"type": "odd"}}}), "odd", 200),
        (result_line(None, None), "no_response", None),
    ],
)
def test_every_failure_has_a_code_and_no_answer(line: bytes, code: str, status: int) -> None:
    result = read_result(line, "/chat/completions")

    assert result["response"] is None
    assert result["error"] is not None
    assert (result["error"].code, result["error"].status) == (code, status)


@pytest.mark.parametrize("line", [b"{", b"[]", b"{}", b"null"])
def test_a_line_that_is_none_is_said_and_not_dropped(line: bytes) -> None:
    with pytest.raises(BatchwrightError, match="cannot be read"):
        read_result(line, "/chat/completions")


def test_ids_sort_as_the_requests_do() -> None:
    ids = [custom_id(number, 1000) for number in range(1, 1001)]

    assert ids[0] == "request-0001"
    assert sorted(ids) == ids


def test_a_request_without_result_gets_the_failure() -> None:
    ordered = in_order_of(["b", "a", "c"], results(a=True, b=True), FAILURE)

    assert [ordered[name]["error"] for name in ordered] == [None, None, FAILURE]
    assert list(ordered) == ["b", "a", "c"]


def test_parts_are_joined_and_a_retry_replaces_what_failed() -> None:
    jobs = merge([results(a=True, b=False), results(c=False), results(b=True, c=False)])

    assert len(jobs) == 1
    assert [(n, r["error"] is None) for n, r in jobs[0].results.items()] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert jobs[0].members == [0, 1, 2]


def test_a_batch_with_taken_ids_is_another_job() -> None:
    jobs = merge([results(a=True, b=False), results(a=True, b=True)])

    assert [list(job.results) for job in jobs] == [["a", "b"], ["a", "b"]]
