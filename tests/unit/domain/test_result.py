"""Result lines: one line of valid JSON, whatever is in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.result import (
    Code,
    answer_line,
    code_name,
    failure_line,
    head_prefix,
    line_head,
    result_id,
)

TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)
HEAD = line_head(head_prefix("batch_0f"), 12)


@given(custom_id=TEXTS, request_id=TEXTS, value=TEXTS)
def test_an_answer_line_says_what_it_was_given(custom_id: str, request_id: str, value: str) -> None:
    body = json.dumps({"text": value}).encode()
    line = answer_line(HEAD, custom_id, 200, request_id, body, b'{"attempts":1}')
    assert json.loads(line) == {
        "id": "batch_req_0f_12",
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": request_id, "body": {"text": value}},
        "error": None,
        "batchwright": {"attempts": 1},
    }
    assert len(line.decode().splitlines()) == 1


@given(custom_id=TEXTS, message=TEXTS, code=st.sampled_from(Code))
def test_a_failure_line_has_no_response(custom_id: str, message: str, code: Code) -> None:
    line = failure_line(HEAD, custom_id, code, message, b"{}")
    parsed = json.loads(line)
    assert parsed["response"] is None
    assert parsed["error"] == {"code": code.wire, "message": message}
    assert parsed["custom_id"] == custom_id
    assert len(line.decode().splitlines()) == 1


def test_the_id_of_a_result_names_batch_and_line() -> None:
    assert result_id("batch_0f", 12) == "batch_req_0f_12"
    assert json.loads(HEAD + b"}") == {"id": "batch_req_0f_12"}


@pytest.mark.parametrize(
    ("code", "name"),
    [(429, "429"), (200, "200"), (1000, "request_failed"), (1001, "batch_expired")],
)
def test_codes_have_the_names_of_the_wire(code: int, name: str) -> None:
    assert code_name(code) == name
