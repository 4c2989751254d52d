from __future__ import annotations

import json
import math
import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchwright.domain.strict_json import (
    DEPTH_MAX,
    BadJson,
    DuplicateKey,
    check,
    check_walked,
    doubtful_lines,
    keys,
    members,
    outside_strings,
    read,
)


class _RefusedError(Exception):
    pass


def reference(line: bytes) -> None:
    """The rules once more, slowly, over the `json` module."""
    try:
        value = json.loads(
            line.decode(),
            object_pairs_hook=_Pairs,
            parse_constant=_refuse,
            parse_int=_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError):
        raise _RefusedError from None
    _walk(value, 1)
    if isinstance(value, _Pairs):
        value.refuse_duplicates()
        body = dict(value).get("body")
        if isinstance(body, _Pairs):
            body.refuse_duplicates()


class _Pairs(list[tuple[str, object]]):
    def refuse_duplicates(self) -> None:
        if len(dict(self)) != len(self):
            raise _RefusedError


def _refuse(_: str) -> None:
    raise _RefusedError


def _finite(text: str) -> float:
    if math.isinf(float(text)):
        raise _RefusedError
    return float(text)


def _walk(value: object, depth: int) -> None:
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise _RefusedError
    if isinstance(value, list):
        if depth > DEPTH_MAX:
            raise _RefusedError
        for item in value:
            for part in item if isinstance(value, _Pairs) else (item,):
                _walk(part, depth + 1)


def accepts(line: bytes) -> bool:
    try:
        check(line)
    except BadJson:
        return False
    return True


def reference_accepts(line: bytes) -> bool:
    try:
        reference(line)
    except _RefusedError:
        return False
    return True


TOKENS = st.one_of(
    st.sampled_from('[]{},:"\\-0 1e\t\r\né\u2028\0\x7f'),
    st.sampled_from(['\\"', "\\\\", "\\u", "\\ud83d", "\\ude00", "\\n", ".5", "E+", "308", "309"]),
    st.sampled_from(['"a"', '"body"', '"a":1', "true", "null", "NaN", "Infinity", "9" * 160]),
    st.sampled_from(
        ['{"body":{', '"a":[{"b":', "}]", '"["', '"]}"', '"1e999"', "[" * 60, "]" * 60]
    ),
)
TEXTS = st.lists(TOKENS, max_size=14).map("".join)
NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.one_of(
        st.sampled_from(["0", "1", "17", "9" * 154, "9" * 155, "1" + "0" * 308, "9" * 310]),
        st.integers(0, 10**6).map(str),
    ),
    st.sampled_from(["", ".5", ".0" + "9" * 200]),
    st.one_of(
        st.just(""),
        st.builds(
            "{}{}{}".format,
            st.sampled_from("eE"),
            st.sampled_from(["", "+", "-"]),
            st.sampled_from(["0", "00000", "99", "153", "154", "155", "00307", "308", "309"]),
        ),
    ),
)
ANY_KEY = st.sampled_from(["a", "b", "body", "\\u0061", "é", "\\ud83d\\ude00", '\\"', "", "model"])
SPACE = st.sampled_from(["", "", " ", "  ", "\t"])


@st.composite
def objects(draw: st.DrawFn, depth: int = 2) -> str:
    """The text of an object, its keys often doubled, spaced in any way."""
    parts = []
    for _ in range(draw(st.integers(0, 5))):
        value = draw(st.one_of(st.sampled_from(['"x"', "0", '"]\\"{"', "[1, 2]"]), NUMBERS))
        if depth and draw(st.booleans()):
            value = draw(objects(depth - 1))
        space = [draw(SPACE) for _ in range(4)]
        key = draw(ANY_KEY)
        parts.append(f'{space[0]}"{key}"{space[1]}:{space[2]}{value}{space[3]}')
    return "{" + ",".join(parts) + "}"


@given(st.one_of(TEXTS, objects(), NUMBERS, TEXTS.map(lambda text: f'{{"body":{{"a":"{text}"}}}}')))
@example('{"body": {"a":1,"a":2}}')
@example('{"a":' + " " * 20 + "1}")
def test_the_checker_agrees_with_a_slow_reference(text: str) -> None:
    line = text.encode()

    assert accepts(line) == reference_accepts(line)


@given(NUMBERS, st.binary(max_size=3), st.integers(0, 120))
def test_what_a_walk_leaves_unchecked_is_checked_as_in_a_whole_reading(
    number: str, data: bytes, levels: int
) -> None:
    parts = b'"%b"' % data.replace(b"\\", b"").replace(b'"', b""), number.encode()
    line = b"[" * levels + b"[%b,%b]" % parts + b"]" * levels
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except msgspec.DecodeError:
        return

    try:
        check_walked(line)
    except BadJson:
        is_refused = True
    else:
        is_refused = False

    assert is_refused != reference_accepts(line)


ODD = {
    "plain": b'{"a":1}',
    "blank": b"",
    "deep": b"[" * 101 + b"]" * 101,
    "at the limit": b"[" * 100 + b"]" * 100,
    "wide": b"[" + b"[]," * 200 + b"0]",
    "1e400": b"[1e400]",
    "400 digits": b"[" + b"9" * 400 + b"]",
    "half a number": b"[1e4",
    "two zeros": b"00]",
    "text": "é😀".encode(),
    "not UTF-8": b'"\xff"',
    "half a letter": b'"\xc3',
    "the other half": b'\xa9"',
    "with a CR": b'{"a":1}\r',
}


@given(st.lists(st.sampled_from([*ODD.values()]), max_size=8))
@example([ODD["plain"], ODD["half a number"], ODD["two zeros"], ODD["plain"]])
def test_a_look_at_many_lines_passes_none_that_a_look_at_each_refuses(lines: list[bytes]) -> None:
    doubtful = doubtful_lines(b"\n".join(lines))

    for number, line in enumerate(lines[:-1]):
        if number not in doubtful:
            check_walked(line)


def test_of_good_lines_only_that_which_began_before_is_doubtful() -> None:
    line = json.dumps({"content": "Größe 0e12 and [{(" * 20, "n": 1.5e-7}).encode()

    doubtful = doubtful_lines(line[7:] + b"\n" + b"\n".join([line] * 50))

    assert [number for number in range(52) if number in doubtful] == [0]


@given(st.binary(max_size=6))
def test_bytes_that_are_not_utf8_are_refused_wherever_they_stand(data: bytes) -> None:
    for line in (b'{"a":{"' + data + b'":1}}', b'{"a":["' + data + b'"]}'):
        assert accepts(line) == reference_accepts(line)


@given(objects())
def test_what_is_outside_strings_is_what_the_reference_says(text: str) -> None:
    expected = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)

    assert outside_strings(text.encode()) == expected.encode()


GOOD = {
    "any value": b"[1]",
    "spaced": b' \t{"a" : 1} \r',
    "100 deep": b"[" * 100 + b"]" * 100,
    "brackets in strings": b'["' + b"[" * 5_000 + b'", "\\"' + b"{" * 5_000 + b'"]',
    "wide": b"[" + b"[]," * 5_000 + b"{}]",
    "the largest double": b"[1.7976931348623157e308, -1.7976931348623157E+308]",
    "100 deep and wide": b"[" + (b"[" * 99 + b"]" * 99 + b",") * 1_000 + b"0]",
    "tiny": b"[1e-400, 1e-99999999999999999999, 0e99999]",
    "300 digits": b"9" * 300,
    "5,000 digits behind the point": b"0." + b"3" * 5_000,
    "a number in a string": b'{"a": "1e999, [1e999]", "b": "x\\\\", "c": " 1e999"}',
    "a pair of surrogates": b'"\\ud83d\\ude00"',
    "an escaped backslash before u": b'"\\\\ud800"',
    "an escaped NUL": b'"\\u0000"',
    "line separators": '"\u2028\u0085\x7f"'.encode(),
    "doubled keys that are not ours": b'{"body": {"a": {"b": 1, "b": 2}}, "c": {"d": 1, "d": 2}}',
    "equal key and value": b'{"a": "a", "b": "a", "body": {"b": "b", "a": "b"}}',
    "1,000 keys": json.dumps({"body": dict.fromkeys(map(str, range(1_000)))}).encode(),
}
BAD = {
    "empty": b"",
    "NUL": b"\0",
    "NUL in a string": b'"\0"',
    "NUL behind": b"1\0",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte-order mark": b"\xef\xbb\xbf{}",
    "overlong": b'"\xc0\x80"',
    "a raw surrogate": b'{"a": {"b": "\xed\xa0\x80"}}',
    "cut UTF-8": b'"\xe4\xbd"',
    "a raw surrogate in a key": b'{"a": {"\xed\xa0\x80": 1}}',
    "half a pair": b'{"a": {"b": "\\ud83d"}}',
    "half a pair, then text": b'{"a": {"b": "\\ud83d and text"}}',
    "half a pair in a key": b'{"a": {"\\ude00": 1}}',
    "two first halves": b'"\\ud83d\\ud83d"',
    "101 deep": b"[" * 101 + b"]" * 101,
    "101 deep, mixed": b'{"a":[' * 50 + b"[]" + b"]}" * 50,
    "101 deep behind strings": b'["[[[]]]","\\"}}}",' * 100 + b"[]" + b"]" * 100,
    "101 deep and wide": b"[" + (b"[]," * 50_000) + b"[" * 100 + b"]" * 101,
    "100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "100,000 deep, open": b'{"a":' * 100_000,
    "NaN": b'{"a": {"b": NaN}}',
    "Infinity": b'{"a": {"b": -Infinity}}',
    "1e400": b'{"a": {"b": 1e400}}',
    "-1E+309": b'{"a": {"b": [-1E+309]}}',
    "an exponent of many digits": b"1e" + b"9" * 5_000,
    "400 digits": b"[" + b"9" * 400 + b"]",
    "5,000 digits": b'{"a": {"b": ' + b"9" * 5_000 + b"}}",
    "digits and an exponent": b"9" * 160 + b"e150",
    "trailing garbage": b"{} x",
    "two values": b"{}{}",
    "a lone CR between values": b"{}\r{}",
    "a trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "a leading zero": b"01",
    "a comment": b"{} // x",
    "a tab in a string": b'"\t"',
    "a bad escape": b'"\\x41"',
    "a doubled key": b'{"a": 1, "a": 2}',
    "a doubled key, spaced": b'{ "a" : 1 , "bcdef" : 3 , "a" : 2 }',
    "a doubled key, once escaped": b'{"a": 1, "\\u0061": 2}',
    "a doubled key in body": b'{"body":{"model":"a","model":"b"}}',
    "1,001 keys": json.dumps({"body": dict.fromkeys(map(str, range(1_001)))}).encode(),
    "200,000 keys": json.dumps(dict.fromkeys(map(str, range(200_000)))).encode(),
}


@pytest.mark.parametrize("line", GOOD.values(), ids=GOOD)
def test_what_is_odd_but_legal_is_accepted(line: bytes) -> None:
    check(line)


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_what_is_not_strict_is_refused(line: bytes) -> None:
    with pytest.raises(BadJson) as error:
        check(line)
    assert len(error.value.reason) < 200


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'"\xff"', "not UTF-8: invalid start byte (byte 1)"),
        (b"[1,]", "not valid JSON: trailing comma in array (byte 3)"),
        (b'"\\ud800"', "not valid text: a \\u escape is half of a surrogate pair"),
        (b"[" * 101 + b"]" * 101, "nested deeper than 100 levels"),
        (b"[1e400]", "not finite: the number 1e400 is out of range"),
        (b'{"a":1,"a":2}', "ambiguous: it has the key 'a' twice"),
    ],
)
def test_the_reason_says_what_is_wrong(line: bytes, reason: str) -> None:
    with pytest.raises(BadJson) as error:
        check(line)
    assert error.value.reason == reason


def test_a_doubled_key_is_named() -> None:
    with pytest.raises(DuplicateKey) as error:
        read(b'{"model": 1, "x": 2, "mod\\u0065l": 3}')
    assert error.value.key == "model"


def test_a_value_that_is_no_object_has_no_members() -> None:
    assert read(b"[1, 2]") is None
    assert members(b'"x"') is None


def test_keys_are_given_with_the_place_of_their_values() -> None:
    text = b'{"a" : {"b": 1}, "c\\u0064":"\\"e\\":", "f":[{"g":1}]}'

    assert [(key, text[start : start + 2]) for key, start in keys(text)] == [
        ("a", b" {"),
        ("cd", b'"\\'),
        ("f", b"[{"),
    ]
