from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.engine.packing import Part, PartReader, packed_body, read_part, vector_bytes

words = st.text('abc"\\:,[]{} \n\u2028é😀', min_size=1, max_size=8)
token_ids = st.lists(st.integers(0, 100_000), min_size=1, max_size=5)
rests = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "text-embedding-3-small"])},
    optional={
        "dimensions": st.integers(1, 3072),
        "encoding_format": st.sampled_from(["float", "base64"]),
        "user": st.text("abé", max_size=5),
        "extra": st.dictionaries(st.sampled_from(["input", "x"]), st.integers(), max_size=2),
    },
)


def body_of(value: Any, **rest: Any) -> bytes:
    return json.dumps({"model": "m", "input": value, **rest}).encode()


def part_of(value: Any, **rest: Any) -> Part:
    part = read_part(body_of(value, **rest))
    assert part is not None
    return part


# --- what may share a call


@pytest.mark.parametrize(
    ("value", "inputs"),
    [("text", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (['"input": 1'], 1)],
)
def test_each_form_of_input_is_packed(value: Any, inputs: int) -> None:
    assert part_of(value).inputs == inputs


@pytest.mark.parametrize(
    "value",
    [
        "",
        [],
        [""],
        ["a", ""],
        [[]],
        [[1], []],
        None,
        5,
        {},
        {"text": "a"},
        [None],
        [1.5],
        ["a", 1],
        [1, "a"],
        [[1], "a"],
        ["a", [1]],
        [{"a": 1}],
        [["a"]],
        [True],
    ],
)
def test_an_input_that_is_not_plainly_of_a_known_form_is_sent_alone(value: Any) -> None:
    assert read_part(body_of(value)) is None


@pytest.mark.parametrize(
    ("body", "rest"),
    [
        (b'{"x":{"input":"a"},"input":"a"}', {"x": {"input": "a"}}),
        (b'{"input":"a","x":{"input":"a"}}', {"x": {"input": "a"}}),
        (b'{"inp\\u0075t":"a","x":{"input":"a"}}', {"x": {"input": "a"}}),
        (b'{"x":{"input":"a"},"inp\\u0075t" : "a"}', {"x": {"input": "a"}}),
        (b'{"user":"\\"input\\":\\"a\\"","input":"a"}', {"user": '"input":"a"'}),
        (b'{"user":"input","input":"a"}', {"user": "input"}),
        (b'{"x":{"input":1},"input":["a"]}', {"x": {"input": 1}}),
        (b'{"x":{"input":1},"input":[       "a"       ]}', {"x": {"input": 1}}),
    ],
)
def test_the_input_at_the_top_is_found_among_others(body: bytes, rest: dict[str, Any]) -> None:
    part = read_part(body)
    assert part is not None
    assert json.loads(packed_body([part, part])) == {"input": ["a", "a"], **rest}


def test_a_body_without_input_is_sent_alone() -> None:
    assert read_part(b'{"model":"m"}') is None


def test_white_space_around_the_input_does_not_matter_for_finding_it() -> None:
    part = read_part(b'{ "input"\t:\n  [ "a" , "b" ] , "model" : "m" }')
    assert part is not None
    assert packed_body([part, part]) == (
        b'{ "input"\t:\n  [ "a" , "b" , "a" , "b" ] , "model" : "m" }'
    )


@pytest.mark.parametrize(
    "rest", [{"model": "n"}, {"dimensions": 2}, {"user": "u"}, {"encoding_format": "base64"}]
)
def test_bodies_that_differ_in_anything_else_do_not_share_a_call(rest: dict[str, Any]) -> None:
    assert part_of("a").key != part_of("a", **rest).key


@pytest.mark.parametrize(
    ("rest", "size_bytes"),
    [
        ({}, None),
        ({"encoding_format": "base64"}, None),
        ({"dimensions": 100}, 2200),
        ({"dimensions": 100, "encoding_format": "float"}, 2200),
        ({"dimensions": 100, "encoding_format": "base64"}, 600),
        ({"dimensions": 0}, None),
        ({"dimensions": -5}, None),
        ({"dimensions": 10**9}, None),
        ({"dimensions": "many"}, None),
        ({"dimensions": 2.5}, None),
        ({"dimensions": None}, None),
        ({"dimensions": 100, "encoding_format": 7}, None),
        ({"x": {"dimensions": 100}}, None),
        ({"dimensions": 100, "x": "y" * 4096}, None),  # nothing so long is kept
    ],
)
def test_how_long_the_vectors_will_be_is_told_by_a_body_that_says_it(
    rest: dict[str, Any], size_bytes: int | None
) -> None:
    assert vector_bytes(part_of("a", **rest).key) == size_bytes
    assert vector_bytes(part_of([1, 2], **rest).key) == size_bytes


def test_texts_and_token_ids_do_not_share_a_call() -> None:
    assert part_of("a").key == part_of(["b"]).key
    assert part_of([1]).key == part_of([[2]]).key
    assert part_of("a").key != part_of([1]).key


@given(rests, st.lists(words | st.lists(words, min_size=1, max_size=3), min_size=1, max_size=6))
def test_a_packed_body_is_the_bodies_with_all_their_inputs(
    rest: dict[str, Any], values: list[str | list[str]]
) -> None:
    parts = [read_part(json.dumps({"input": value, **rest}).encode()) for value in values]

    found = [part for part in parts if part is not None]
    assert len(found) == len(values)
    assert json.loads(packed_body(found)) == {
        "input": [text for value in values for text in ([value] if type(value) is str else value)],
        **rest,
    }


@given(st.lists(token_ids | st.lists(token_ids, min_size=1, max_size=3), min_size=1, max_size=6))
def test_packed_token_ids_stay_apart(values: list[Any]) -> None:
    body = json.loads(packed_body([part_of(value) for value in values]))
    assert body["input"] == [
        ids for value in values for ids in ([value] if type(value[0]) is int else value)
    ]


@given(
    st.lists(
        st.tuples(
            words | st.sampled_from(["", '"', "\\", 'a","input":"b']) | st.lists(words) | token_ids,
            st.sampled_from([{}, {"dimensions": 2}, {"user": '"input":"a"'}]),
            st.sampled_from([None, " "]),
        ),
        max_size=6,
    )
)
def test_what_is_read_of_a_body_does_not_depend_on_those_before_it(
    given: list[tuple[Any, dict[str, Any], str | None]],
) -> None:
    reader = PartReader()
    for value, rest, indent in given:
        body = json.dumps({"model": "m", "input": value, **rest}, indent=indent).encode()
        assert reader.read(body) == read_part(body)
