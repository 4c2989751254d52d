from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.answers import (
    EXCERPT_BYTES_MAX,
    BadAnswer,
    check_answer,
    error_body,
    says_it_failed,
)
from batchwright.domain.strict_json import DEPTH_MAX
from batchwright.domain.usage import Usage, clamped

CHAT = "/v1/chat/completions"
ENDPOINTS = {
    CHAT: b'{"choices":[]}',
    "/v1/completions": b'{"choices":[]}',
    "/v1/embeddings": b'{"data":[]}',
    "/v1/moderations": b'{"results":[]}',
    "/v1/responses": b'{"output":[]}',
    "/v1/images/generations": b'{"created":1}',
}


def with_member(member: bytes) -> bytes:
    return b'{"choices":[],%s}' % member


# --- shape


@pytest.mark.parametrize("url", ENDPOINTS)
def test_an_answer_of_its_endpoints_shape_passes_unchanged(url: str) -> None:
    assert check_answer(url, ENDPOINTS[url]).body == ENDPOINTS[url]


@pytest.mark.parametrize("url", [url for url in ENDPOINTS if "images" not in url])
@pytest.mark.parametrize("body", [b"{}", b'{"choices":{},"data":1,"results":"","output":null}'])
def test_an_object_of_another_shape_is_refused(url: str, body: bytes) -> None:
    with pytest.raises(BadAnswer, match="the body has no array"):
        check_answer(url, body)


@pytest.mark.parametrize("url", ENDPOINTS)
@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"1", b"true"])
def test_json_that_is_no_object_is_refused(url: str, body: bytes) -> None:
    with pytest.raises(BadAnswer, match="no object"):
        check_answer(url, body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"<html><body>Bad gateway</body></html>", "HTML"),
        (b'{"choices":[]', "not valid JSON"),
        (b'{"choices":[]} {}', "not valid JSON"),
        (b'{"choices":[],}', "not valid JSON"),
        (b'\xef\xbb\xbf{"choices":[]}', "not valid JSON"),
    ],
)
def test_what_is_no_json_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(BadAnswer, match=reason) as caught:
        check_answer(CHAT, body)

    assert caught.value.reason == str(caught.value)


@pytest.mark.parametrize("url", ENDPOINTS)
def test_an_error_inside_a_200_is_no_answer(url: str) -> None:
    body = ENDPOINTS[url][:-1] + b',"error":{"message":"overloaded"}}'

    with pytest.raises(BadAnswer, match="an error inside"):
        check_answer(url, body)


def test_an_error_that_is_null_does_no_harm() -> None:
    assert check_answer(CHAT, with_member(b'"error":null'))


def test_an_error_is_found_under_an_escaped_key() -> None:
    with pytest.raises(BadAnswer):
        check_answer(CHAT, with_member(b'"err\\u006fr":{"message":"x"}'))


def test_only_a_response_can_say_of_itself_that_it_failed() -> None:
    body = b'{"status":"failed","output":[],"choices":[]}'
    assert says_it_failed("/v1/responses", body)
    assert not says_it_failed("/v1/responses", body.replace(b"failed", b"incomplete"))
    assert not says_it_failed("/v1/responses", b'{"status":{},"output":[]}')
    assert not says_it_failed("/v1/responses", b'{"output":[]}')
    assert not says_it_failed("/v1/chat/completions", body)


def test_a_response_that_says_of_itself_that_it_failed_is_a_whole_answer() -> None:
    body = b'{"status":"failed","output":[],"error":{"code":"server_error","message":"x"}}'

    assert check_answer("/v1/responses", body).body == body
    with pytest.raises(BadAnswer):
        check_answer("/v1/responses", body.replace(b"failed", b"completed"))


@pytest.mark.parametrize("usage", [b'"none"', b'{"input_tokens":"7"}', b'{"input_tokens":7.5}'])
def test_a_failed_response_with_odd_usage_is_a_whole_answer_too(usage: bytes) -> None:
    body = b'{"status":"failed","output":[],"error":{"code":"x"},"usage":%b}' % usage
    assert check_answer("/v1/responses", body).body == body
    with pytest.raises(BadAnswer, match="an error inside"):
        check_answer("/v1/responses", body.replace(b"failed", b"completed"))
    chat = body.replace(b"output", b"choices", 1)
    with pytest.raises(BadAnswer, match="an error inside"):
        check_answer(CHAT, chat)


# --- strictness everywhere, also in parts that are not read


@pytest.mark.parametrize("url", [CHAT, "/v1/other"])
@pytest.mark.parametrize(
    "member",
    [
        b'"x":"\xff"',
        b'"x":"\xc0\xaf"',
        b'"x":"\xed\xa0\x80"',
        b'"\xff":1',
        b'"x":"\\ud800"',
        b'"x":"\\ud800 and more text that follows"',
        b'"x":"\\uDC00"',
        b'"x":"\\ud83d\\ud83d"',
        b'"\\ud800":1',
        b'"x":NaN',
        b'"x":-Infinity',
        b'"x":1e400',
        b'"x":-1E+400',
        b'"x":[0.5,12e0999]',
        b'"x":1' + b"0" * 309,
        b'"x":1' + b"0" * 250 + b"e99",
        b'"x":"a\x01b"',
        b'"x":"a\nb"',
        b'"x":01',
        b'"x":+1',
        b'"x":.5',
        b'"x":"\\q"',
        b'"x":nul',
    ],
)
def test_what_is_not_strict_json_is_refused(url: str, member: bytes) -> None:
    with pytest.raises(BadAnswer):
        check_answer(url, with_member(member))


@pytest.mark.parametrize(
    "member",
    [
        b'"x":"\\ud83d\\ude00"',
        b'"x":"\\\\ud800"',
        b'"x":"1e400"',
        b'"id":"chatcmpl-e123","x":"E999"',
        b'"x":1e-400',
        b'"x":1e300',
        b'"x":0.' + b"3" * 400,
        b'"x":"' + b"7" * 5000 + b'"',
        b'"x":"{[{[' + b"[" * 200 + b'"',
        b'"x":[' + b"[]," * 200 + b"[]]",
        b'"x":"\\"' + b"[" * 150 + b'"',
    ],
)
def test_what_only_looks_odd_passes_unchanged(member: bytes) -> None:
    body = with_member(member)

    assert check_answer(CHAT, body).body == body


@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")]
)
def test_nesting_passes_up_to_100_levels_and_no_deeper(opening: bytes, closing: bytes) -> None:
    levels = len(closing)
    deep = (DEPTH_MAX - 1) // levels  # the object itself is the first level

    def body(times: int) -> bytes:
        return b'{"x":' + opening * times + b"0" + closing * times + b',"choices":[]}'

    assert check_answer(CHAT, body(deep))
    with pytest.raises(BadAnswer, match="deeper"):
        check_answer(CHAT, body(deep + 1))


def test_a_hundred_thousand_levels_are_refused() -> None:
    with pytest.raises(BadAnswer):
        check_answer(CHAT, with_member(b'"x":' + b"[" * 100_000 + b"]" * 100_000))


# --- one line


def test_line_breaks_between_tokens_become_spaces() -> None:
    pretty = json.dumps({"choices": [{"a": "b"}], "x": "c\nd"}, indent=2).replace("\n", "\r\n")

    checked = check_answer(CHAT, pretty.encode() + b"\n")

    assert b"\n" not in checked.body
    assert b"\r" not in checked.body
    assert json.loads(checked.body) == json.loads(pretty)


def test_line_separators_in_strings_are_escaped() -> None:
    body = '{"choices":[],"x":"a\u2028b\u2029c\x85dé–"}'.encode()

    checked = check_answer(CHAT, body)

    assert checked.body == '{"choices":[],"x":"a\\u2028b\\u2029c\\u0085dé–"}'.encode()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(json_values, st.sampled_from([None, 2]), st.booleans())
def test_every_valid_answer_passes_as_one_line_of_the_same_value(
    value: object, indent: int | None, ensure_ascii: bool
) -> None:
    body = json.dumps(
        {"choices": [value]}, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False
    ).encode("utf-8", "surrogatepass")

    checked = check_answer(CHAT, body).body

    assert json.loads(checked) == {"choices": [value]}
    assert len(checked.decode().splitlines()) == 1


@given(st.binary(max_size=200))
def test_any_bytes_pass_or_are_refused_and_nothing_else(noise: bytes) -> None:
    body = b'{"choices":[],"x":' + noise + b"}"
    try:
        checked = check_answer(CHAT, body).body
    except BadAnswer:
        return

    assert isinstance(json.loads(checked, parse_constant=pytest.fail), dict)


# --- usage


def test_usage_of_a_chat_completion_is_read() -> None:
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }

    checked = check_answer(CHAT, json.dumps({"choices": [], "usage": usage}).encode())

    assert checked.usage == Usage(12, 3, 5, 2)


def test_usage_of_a_response_and_of_embeddings_is_read() -> None:
    usage = b'{"input_tokens":9,"input_tokens_details":{"cached_tokens":1},"output_tokens":2,'
    usage += b'"output_tokens_details":{"reasoning_tokens":1}}'

    response = check_answer("/v1/responses", b'{"output":[],"usage":%s}' % usage)
    embeddings = check_answer("/v1/embeddings", b'{"data":[],"usage":{"prompt_tokens":8}}')

    assert response.usage == Usage(9, 1, 2, 1)
    assert embeddings.usage == Usage(8, 0, 0, 0)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b"null", Usage()),
        (b'"none"', Usage()),
        (b"[]", Usage()),
        (b'{"prompt_tokens":-5,"completion_tokens":7}', Usage(0, 0, 7, 0)),
        (b'{"prompt_tokens":"12","completion_tokens":7}', Usage(0, 0, 7, 0)),
        (b'{"prompt_tokens":12.0,"completion_tokens":1.5}', Usage(12, 0, 0, 0)),
        (b'{"prompt_tokens":99999999999999999999}', Usage()),
        (b'{"prompt_tokens":5,"prompt_tokens_details":null}', Usage(5)),
        (b'{"prompt_tokens":5,"prompt_tokens_details":3}', Usage(5)),
        (b'{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":"x"}}', Usage(5)),
        (b'{"prompt_tokens":true}', Usage()),
    ],
)
def test_figures_that_make_no_sense_count_as_0_and_do_not_spoil_the_answer(
    usage: bytes, expected: Usage
) -> None:
    body = with_member(b'"usage":' + usage)

    checked = check_answer(CHAT, body)

    assert checked.usage == expected
    assert checked.body == body


def test_a_bad_usage_does_not_hide_an_error_or_a_wrong_shape() -> None:
    with pytest.raises(BadAnswer, match="an error inside"):
        check_answer(CHAT, with_member(b'"usage":1,"error":{"message":"x"}'))
    with pytest.raises(BadAnswer, match="no array"):
        check_answer(CHAT, b'{"usage":1}')


def test_usages_add_up_to_the_wire_form() -> None:
    total = Usage(10, 4, 3, 1).add(Usage(1, 0, 2, 0))

    assert total.to_wire() == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 16,
    }


@given(st.none() | st.integers() | st.floats() | st.text() | st.booleans())
def test_a_clamped_figure_is_always_a_sane_int(tokens: object) -> None:
    assert type(clamped(tokens)) is int
    assert 0 <= clamped(tokens) <= 2**31 - 1


# --- error answers


def test_an_upstream_error_is_kept_as_it_came_on_one_line() -> None:
    body = b'{\n "error": {"message": "no\xe2\x80\xa8pe", "type": "t", "extra": 1}\n}\n'

    assert error_body(400, body) == (
        b'{  "error": {"message": "no\\u2028pe", "type": "t", "extra": 1} }'
    )


@pytest.mark.parametrize(
    "body",
    [
        b"<html>502 Bad Gateway</html>",
        b'{"detail":"Not Found"}',
        b'{"error":"model is loading"}',
        b'[{"error":{"message":"in a list"}}]',
        b'{"error":{"message":5}}',
        b'{"error":{"message":"x","y":1e400}}',
        b'{"error":{"message":"\\ud800"}}',
        b"\xff\xfe\x00",
        b'{"error":{"message":"' + b"x" * 100_000 + b'"}}',
        b'"' + "\u2028\x85".encode() + b'"',
    ],
)
def test_an_upstream_error_of_another_shape_is_wrapped_with_an_excerpt(body: bytes) -> None:
    wrapped = error_body(502, body)

    error = json.loads(wrapped)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].startswith("HTTP 502: ")
    assert len(error["message"].encode()) <= 3 * EXCERPT_BYTES_MAX + 20
    assert len(wrapped.decode().splitlines()) == 1


def test_an_error_without_a_body_says_so() -> None:
    assert json.loads(error_body(503, b""))["error"]["message"] == "HTTP 503: the body is empty"


def test_of_a_redirect_the_host_alone_is_named() -> None:
    message = json.loads(error_body(307, b"", "https://evil.example/path?key=secret"))["error"][
        "message"
    ]

    assert message == "HTTP 307: a redirect to evil.example, which is not followed"


@given(st.integers(300, 599), st.binary(max_size=300))
def test_every_error_body_is_one_line_with_an_error_object(status: int, body: bytes) -> None:
    wire = error_body(status, body)

    assert isinstance(json.loads(wire)["error"]["message"], str)
    assert len(wire.decode().splitlines()) == 1


def test_the_search_for_long_numbers_errs_on_no_side() -> None:
    for digits in (154, 155, 308, 309, 310):
        body = with_member(b'"x":' + b"1" * digits)
        if math.isinf(float("1" * digits)):
            with pytest.raises(BadAnswer):
                check_answer(CHAT, body)
        else:
            assert check_answer(CHAT, body).body == body
