from __future__ import annotations

import json
import tracemalloc
from itertools import product
from typing import Any

import pytest

from batchwright.domain.batch_error import BatchError
from batchwright.engine.validate import (
    ERRORS_MAX,
    SeenIds,
    ValidationReport,
    ValidationRules,
    Validator,
    count_inputs,
)

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
ABSENT = object()


def serve_all_but_x(model: str, endpoint: str) -> str | None:
    return f"Nobody serves {model!r} at {endpoint}." if model.startswith("x") else None


def validate(*lines: bytes, chunk_bytes: int = 2**20, **rules: Any) -> ValidationReport:
    rules.setdefault("endpoint", CHAT)
    validator = Validator(ValidationRules(**rules), serve_all_but_x)
    data = b"\n".join(lines)
    for start in range(0, len(data), chunk_bytes):
        validator.feed(data[start : start + chunk_bytes])
    return validator.finish()


def request(custom_id: object = "a", **changes: object) -> bytes:
    fields = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": BODY} | changes
    return json.dumps({key: value for key, value in fields.items() if value is not ABSENT}).encode()


def with_body(**changes: object) -> bytes:
    fields = BODY | changes
    return request(body={key: value for key, value in fields.items() if value is not ABSENT})


def test_a_valid_file_is_measured() -> None:
    body_bytes = len(json.dumps(BODY))

    report = validate(b"\xef\xbb\xbf" + request("a") + b"\r", b"", request("b"), b"  ", b"")

    assert report.errors == ()
    assert (report.total, report.lines, report.model) == (2, 4, "m")
    assert report.estimated_input_bytes == 2 * body_bytes


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 10_000])
def test_chunks_may_be_cut_anywhere(chunk_bytes: int) -> None:
    lines = [request("é"), b"nope", request("é"), request("c")]

    report = validate(*lines, chunk_bytes=chunk_bytes)

    assert [(error.line, error.code) for error in report.errors] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
    ]


REFUSED = {
    "not JSON": (b"nope", "invalid_json_line", None),
    "invalid UTF-8": (request("a").replace(b"Hi", b"\xff"), "invalid_json_line", None),
    "UTF-16": (request("a").decode().encode("utf-16-le"), "invalid_json_line", None),
    "a later byte-order mark": (b"\xef\xbb\xbf" + request(), "invalid_json_line", None),
    "NUL": (request() + b"\0", "invalid_json_line", None),
    "lines parted by a lone CR": (request("a") + b"\r" + request("b"), "invalid_json_line", None),
    "trailing garbage": (request() + b"x", "invalid_json_line", None),
    "another bracket at the end": (request()[:-1] + b"]", "invalid_json_line", None),
    "a brace too many": (request() + b"}", "invalid_json_line", None),
    "NaN deep in the body": (with_body(x=[{"y": float("nan")}]), "invalid_json_line", None),
    "1e400": (with_body(seed=7).replace(b"7}", b"1e400}"), "invalid_json_line", None),
    "5,000 digits": (with_body(x=7).replace(b"7}", b"7" * 5_000 + b"}"), "invalid_json_line", None),
    "a lone surrogate": (with_body(x={"\ud800": 1}), "invalid_json_line", None),
    "100,000 levels": (b'{"body":' + b"[" * 10**5, "invalid_json_line", None),
    "an array": (b"[1]", "invalid_request", None),
    "a doubled key": (b'{"url":"a","url":"b"}', "invalid_request", "url"),
    "a doubled key in the body": (
        request().replace(b'"messages"', b'"model":"n","messages"'),
        "invalid_request",
        "body.model",
    ),
    "a million keys": (
        b'{"body":{' + b",".join(b'"%d":0' % n for n in range(100_000)) + b"}," + request()[1:],
        "invalid_request",
        "body",
    ),
    "no custom_id": (request(ABSENT), "missing_required_parameter", "custom_id"),
    "a numeric custom_id": (request(1), "invalid_request", "custom_id"),
    "custom_id null": (request(None), "invalid_request", "custom_id"),
    "an empty custom_id": (request(""), "invalid_request", "custom_id"),
    "a custom_id of 513 bytes": (request("é" * 256 + "a"), "invalid_request", "custom_id"),
    "a custom_id of 1 MB": (request("a" * 10**6), "invalid_request", "custom_id"),
    "no method": (request(method=ABSENT), "missing_required_parameter", "method"),
    "GET": (request(method="GET"), "invalid_method", "method"),
    "post": (request(method="post"), "invalid_method", "method"),
    "no url": (request(url=ABSENT), "missing_required_parameter", "url"),
    "a url that is no string": (request(url=["/v1"]), "invalid_request", "url"),
    "another url": (request(url="/v1/embeddings"), "invalid_url", "url"),
    "an absolute url": (request(url=f"https://evil.example{CHAT}"), "invalid_url", "url"),
    "no body": (request(body=ABSENT), "missing_required_parameter", "body"),
    "a body that is a string": (request(body="{}"), "invalid_request", "body"),
    "a body of null": (request(body=None), "invalid_request", "body"),
    "no model": (with_body(model=ABSENT), "missing_required_parameter", "body.model"),
    "a model that is no string": (with_body(model=["m"]), "invalid_request", "body.model"),
    "an unknown model": (with_body(model="x-1"), "model_not_found", "body.model"),
    "no messages": (with_body(messages=ABSENT), "missing_required_parameter", "body.messages"),
    "messages of text": (with_body(messages="Hi"), "invalid_request", "body.messages"),
    "stream": (with_body(stream=True), "streaming_unsupported", "body.stream"),
    "stream by number": (with_body(stream=1), "streaming_unsupported", "body.stream"),
}


@pytest.mark.parametrize(("line", "code", "param"), REFUSED.values(), ids=REFUSED)
def test_a_bad_line_is_named_with_its_field(line: bytes, code: str, param: str | None) -> None:
    report = validate(request("first"), line, request("last"))

    (error,) = report.errors
    assert (error.code, error.param, error.line) == (code, param, 2)
    assert error.message
    assert len(error.message) < 300
    assert error.message.isprintable()


@pytest.mark.parametrize("key", ["custom_id", "method", "url", "body", "x", ""])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_a_key_given_twice_is_found_however_short_and_spaced(
    key: str, separators: tuple[str, str]
) -> None:
    line = json.dumps(json.loads(request()) | {key: "a"}, separators=separators).encode()
    twice = [b'{"%s":"a",%s' % (key.encode(), line[1:]), b'%s,"%s":0}' % (line[:-1], key.encode())]

    for text in twice:
        (error,) = validate(text).errors
        assert (error.code, error.param) == ("invalid_request", key)


# The first value of each key is good, the others are odd.
MEMBERS = {
    "custom_id": ['"a"', '"\\u0061"', '"é"', '""', "1", '"b\\n"', '"\x1f"', '"' + "é" * 257 + '"'],
    "method": ['"POST"', '"GET"', '"\\u0050OST"'],
    "url": [f'"{CHAT}"', '"/chat/completions"', '"/v1/embeddings"', "null"],
    "body": [
        '{"model": "m", "messages": []}',
        '{"model": "m" , "messages": [], "model": "n"}',
        '{"model": "x", "messages": ["}}"]}',
        '{"model": "m", "messages": [1e400]}',
        '{"model": "m", "messages": ' + "[" * 99 + "]" * 99 + "}",
        '{"model": "m", "messages": ' + "[" * 98 + "]" * 98 + "}",
        '{"model": "m", "messages": [}',
        '{"model": "m"}} , {"x": {}',
        "[{}]",
    ],
    "x": ["0", "{}", '{"a": {}}'],
}


@pytest.mark.parametrize("key", MEMBERS)
def test_the_quick_look_at_a_line_changes_nothing(key: str) -> None:
    usual = [f'"{name}": {values[0]}' for name, values in MEMBERS.items()][:4]
    for value, at, first in product(MEMBERS[key], range(4), range(4)):
        members = [*usual[:at], f'"{key}": {value}', *usual[at + 1 :]]
        line = "{" + ", ".join(members[first:] + members[:first]) + "}"
        # White space behind a line keeps it from the quick look.
        assert validate(line.encode()) == validate(line.encode() + b" ")


ACCEPTED = {
    "an escaped method": request().replace(b'"POST"', b'"\\u0050OST"'),
    "the url without the version": request(url="/chat/completions"),
    "unknown keys": request(x=1, batchwright={"y": 2}),
    "no stream": with_body(stream=False),
    "stream null": with_body(stream=None),
    "a custom_id of 512 bytes": request("é" * 256),
    "a custom_id with a line feed": request("a\nb|c"),
    "base URLs in the body": with_body(api_base="http://evil.example", x={"base_url": "y"}),
    "line separators": json.dumps(json.loads(request("\u2028\u0085")), ensure_ascii=False).encode(),
}


@pytest.mark.parametrize("line", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_odd_but_legal_is_accepted(line: bytes) -> None:
    assert validate(line).errors == ()


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("/v1/embeddings", {"input": "x"}, None),
        ("/v1/embeddings", {}, "body.input"),
        ("/v1/embeddings", {"input": {"a": 1}}, "body.input"),
        ("/v1/completions", {"prompt": ["x"]}, None),
        ("/v1/completions", {}, "body.prompt"),
        ("/v1/moderations", {}, "body.input"),
        ("/v1/responses", {"input": "x"}, None),
        ("/v1/responses", {"prompt": {"id": "pmpt_1"}}, None),
        ("/v1/responses", {}, "body.input"),
        ("/v1/images/generations", {}, "body.prompt"),
        ("/v1/rerank", {}, None),
    ],
)
def test_each_endpoint_asks_for_its_keys(
    endpoint: str, body: dict[str, object], param: str | None
) -> None:
    report = validate(request(url=endpoint, body={"model": "m"} | body), endpoint=endpoint)

    assert [error.param for error in report.errors] == ([param] if param else [])


def test_ids_are_told_apart_by_their_exact_bytes() -> None:
    ids = ["a", "A", "é", "e\u0301", " a", "a "]

    assert validate(*map(request, ids)).errors == ()
    assert validate(request("a"), request().replace(b'"a"', b'"\\u0061"')).errors[0].line == 2


def test_a_file_without_a_request_is_empty() -> None:
    for data in (b"", b"\n\n \r\n", b"\xef\xbb\xbf\n"):
        assert [error.code for error in validate(data).errors] == ["empty_file"]


def test_several_models_are_several_unless_one_is_asked_for() -> None:
    lines = [request(str(n), body=BODY | {"model": f"m{n % 3}"}) for n in range(6)]

    mixed = validate(*lines)
    single = validate(*lines, one_model_per_file=True)

    assert (mixed.errors, mixed.model) == ((), None)
    assert [(error.code, error.line) for error in single.errors] == [
        ("mismatched_model", line) for line in (2, 3, 5, 6)
    ]


def test_each_model_is_asked_for_once() -> None:
    asked: list[str] = []
    validator = Validator(ValidationRules(CHAT), lambda model, endpoint: asked.append(model))

    for number in range(50):
        validator.feed(request(str(number), body=BODY | {"model": f"m{number % 2}"}) + b"\n")

    assert asked == ["m0", "m1"]


def test_too_many_requests_are_counted_and_refused_once() -> None:
    report = validate(*(request(str(n)) for n in range(12)), b"nope", requests_max=10)

    (error,) = report.errors
    assert (error.code, error.line, report.total) == ("too_many_tasks", None, 13)
    assert "13" in error.message
    assert "10" in error.message


def test_embedding_inputs_are_counted_over_all_lines() -> None:
    url = "/v1/embeddings"
    lines = [request(str(n), url=url, body={"model": "m", "input": ["x", "y"]}) for n in range(3)]

    assert validate(*lines, endpoint=url, embedding_inputs_max=6).errors == ()
    (error,) = validate(*lines, endpoint=url, embedding_inputs_max=5).errors
    assert (error.code, error.line, error.param) == ("too_many_inputs", None, "body.input")


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("a, b", 1),
        ([], 0),
        (["a"], 1),
        (["a,b", 'c"],["', "d"], 3),
        ([1, 2, 3], 1),
        ([[1, 2], [3], []], 3),
        ([{"text": "[,]", "x": [1, {"y": 2}]}, {"text": "b"}], 2),
    ],
)
def test_the_inputs_of_a_request_are_counted(value: object, count: int) -> None:
    assert count_inputs(json.dumps(value).encode()) == count


def test_a_line_over_the_limit_is_reported_and_the_rest_is_read() -> None:
    long = with_body(x="y" * 5_000)

    report = validate(request("a"), long, b"nope", line_bytes_max=1_000, chunk_bytes=100)

    assert [(error.line, error.code) for error in report.errors] == [
        (2, "line_too_long"),
        (3, "invalid_json_line"),
    ]


def test_a_gigantic_line_takes_no_memory() -> None:
    chunk = b"x" * 2**20
    validator = Validator(ValidationRules(CHAT), serve_all_but_x)
    tracemalloc.start()
    for _ in range(200):
        validator.feed(chunk)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert validator.finish().errors[0].code == "line_too_long"
    assert peak_bytes < 40 * 2**20


def test_of_3000_bad_lines_among_50000_the_first_1000_are_listed_and_all_are_counted() -> None:
    lines = (request(str(n)) if n % 50 >= 3 else b"{" for n in range(50_000))

    report = validate(*lines)

    *listed, last = report.errors
    bad = [n + 1 for n in range(50_000) if n % 50 < 3]
    assert [error.line for error in listed] == bad[:ERRORS_MAX]
    assert last == BatchError(
        "too_many_errors", "3,000 lines are wrong. The first 1,000 are listed."
    )


def test_identical_ids_are_all_refused_in_flat_memory() -> None:
    chunk = (request("same") + b"\n") * 1_000
    validator = Validator(ValidationRules(CHAT, requests_max=None), serve_all_but_x)
    tracemalloc.start()
    for _ in range(10):
        validator.feed(chunk)
    before_bytes = tracemalloc.get_traced_memory()[0]
    for _ in range(10):
        validator.feed(chunk)
    after_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    report = validator.finish()

    assert after_bytes - before_bytes < 10_000
    assert len(report.errors) == ERRORS_MAX + 1
    assert report.errors[-1].message.startswith("19,999 lines are wrong.")


def test_seen_ids_forget_nothing_when_they_grow_and_stay_small() -> None:
    seen = SeenIds()
    tracemalloc.start()
    assert all(seen.add(b"id-%d" % n) for n in range(50_000))
    used_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert not any(seen.add(b"id-%d" % n) for n in range(50_000))
    assert used_bytes / 50_000 < 20
