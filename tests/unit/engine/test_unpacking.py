from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.answers import BadAnswer
from batchwright.domain.usage import Usage
from batchwright.engine.packing import EMBEDDINGS_URL, Part, packed_body, read_part
from batchwright.engine.unpacking import shares, unpack
from batchwright.sandbox.answers import answer as answer_of_sandbox


def body_of(value: Any, **rest: Any) -> bytes:
    return json.dumps({"model": "m", "input": value, **rest}).encode()


def part_of(value: Any, **rest: Any) -> Part:
    part = read_part(body_of(value, **rest))
    assert part is not None
    return part


def item_of(index: int) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": [index, 0.5]}


def answer_of(items: list[Any], usage: Any = None, **more: Any) -> bytes:
    used = {"prompt_tokens": 10, "total_tokens": 10} if usage is None else usage
    whole = {"object": "list", "data": items, "model": "m", "usage": used, **more}
    return json.dumps(whole, separators=(",", ":")).encode()


PAIR = [part_of("one"), part_of("two")]

# --- taking apart


def test_an_answer_comes_apart_to_the_byte() -> None:
    body = (
        b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1e-3,-0.50]},'
        b'{"object":"embedding","index":1,"embedding":"AAAA/w=="}],'
        b'"model":"m","usage":{"prompt_tokens":8,"total_tokens":8}}'
    )
    first, second = unpack(body, [part_of("a"), part_of("bcd")])

    assert first.body == (
        b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1e-3,-0.50]}],'
        b'"model":"m","usage":{"prompt_tokens":3,"total_tokens":3}}'
    )
    assert second.body == (
        b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AAAA/w=="}],'
        b'"model":"m","usage":{"prompt_tokens":5,"total_tokens":5}}'
    )


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6).flatmap(
        lambda counts: st.tuples(st.just(counts), st.permutations(range(sum(counts))))
    ),
    st.integers(0, 10**6),
    st.sampled_from([None, 1]),
)
def test_each_request_gets_its_own_items_in_whatever_order_they_come(
    counts_and_order: tuple[list[int], list[int]], tokens: int, indent: int | None
) -> None:
    counts, order = counts_and_order
    parts = [part_of(["x" * count] * count) for count in counts]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = answer_of([item_of(index) for index in order], usage, id="é")
    if indent is not None:
        body = json.dumps(json.loads(body), indent=indent).encode()

    answers = unpack(body, parts)

    expected = iter(range(sum(counts)))
    for count, answer in zip(counts, answers, strict=True):
        assert b"\n" not in answer.body
        read = json.loads(answer.body)
        assert list(read) == ["object", "data", "model", "usage", "id"]
        assert [item["index"] for item in read["data"]] == list(range(count))
        assert [item["embedding"][0] for item in read["data"]] == [
            next(expected) for _ in range(count)
        ]
        assert read["usage"]["prompt_tokens"] == answer.usage.input_tokens
    assert sum(answer.usage.input_tokens for answer in answers) == tokens


def test_items_without_any_index_stay_in_their_order_and_get_none() -> None:
    items = [{"embedding": [0]}, {"embedding": [1]}]
    assert [json.loads(one.body)["data"] for one in unpack(answer_of(items), PAIR)] == [
        [{"embedding": [0]}],
        [{"embedding": [1]}],
    ]


@pytest.mark.parametrize(
    "items",
    [
        [],
        [item_of(0)],
        [item_of(0), item_of(1), item_of(2)],
        [item_of(0), item_of(0)],
        [item_of(1), item_of(2)],
        [item_of(0), item_of(-1)],
        [item_of(0), {"embedding": [1]}],
        [{"index": None, "embedding": [1]}] * 2,
        [{"index": "0", "embedding": [1]}, {"index": "1", "embedding": [1]}],
        [{"index": 0.0, "embedding": [1]}, {"index": 1, "embedding": [1]}],
        [{"index": False, "embedding": [1]}, {"index": True, "embedding": [1]}],
        [{"index": 0}, item_of(1)],
        [{"index": 0, "embedding": None}, item_of(1)],
        [item_of(0), None],
        [item_of(0), [1]],
    ],
)
def test_items_that_do_not_match_the_inputs_are_refused_whole(items: list[Any]) -> None:
    with pytest.raises(BadAnswer):
        unpack(answer_of(items), PAIR)


@given(st.lists(st.integers(-1, 4) | st.none(), max_size=5))
def test_no_line_ever_gets_the_answer_of_another(indices: list[int | None]) -> None:
    parts = [part_of("a"), part_of(["b", "c"])]
    items = [{"index": index, "embedding": [index]} for index in indices]
    body = answer_of(items)
    if sorted(-9 if index is None else index for index in indices) == [0, 1, 2]:
        data = [json.loads(one.body)["data"] for one in unpack(body, parts)]
        assert [[item["embedding"][0] for item in items] for items in data] == [[0], [1, 2]]
    else:
        with pytest.raises(BadAnswer):
            unpack(body, parts)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"<html>", "HTML"),
        (b"[]", "no object"),
        (b'{"data":{}}', "no array"),
        (b'{"usage":{}}', "no array"),
        (b'{"data":[],"error":{"message":"no"}}', "an error inside"),
        (b'{"data":[{"embedding":[1e999]},{"embedding":[1]}]}', "not finite"),
        (b'{"data":[{"embedding":[0.5,1E999]},{"embedding":[1]}]}', "not finite"),
        (b'{"data":[{"embedding":[0.5,1e+999]},{"embedding":[1]}]}', "not finite"),
        (b'{"data":[{"embedding":[0,%b]},{"embedding":[1]}]}' % (b"9" * 400), "not finite"),
        (
            b'{"data":[{"embedding":[0%b,%b]},{"embedding":[1]}]}' % (b",0.25" * 99, b"9" * 400),
            "not finite",
        ),
        (b'{"data":[{"embedding":[{"x":1e999}]},{"embedding":[1]}]}', "not finite"),
        (b'{"data":[{"embedding":[[1e999]]},{"embedding":[1]}]}', "not finite"),
        (b'{"data":[{"embedding":[1],"x":1e999},{"embedding":[1]}]}', "not finite"),
        (b'{"data":[{"embedding":%b},{"embedding":[]}]}' % (b"[" * 98 + b"]" * 98), "nested"),
        (b'{"data":[{"embedding":[1]},{"embedding":"\xff"}]}', "not UTF-8"),
        (b'{"data":[{"embedding":[1]},{"embedding":"\n"}]}', "not valid JSON"),
        (b'{"data":[{"embedding":[1]},{"embedding":"\\ud800"}]}', "not valid JSON"),
        (b'{"data":[{"embedding":[1]},{"embedding":[NaN]}]}', "not valid JSON"),
    ],
)
def test_an_answer_that_no_single_request_could_have_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BadAnswer, match=reason):
        unpack(body, PAIR)


def test_embeddings_that_are_lists_of_lists_are_kept() -> None:
    items = [{"index": 0, "embedding": [[1, 2], [3]]}, {"index": 1, "embedding": [[4]]}]
    first, _ = unpack(answer_of(items), PAIR)
    assert b'"embedding":[[1, 2], [3]]'.replace(b" ", b"") in first.body


@pytest.mark.parametrize(
    "members",
    [
        '"data":[{"embedding":[1]},{"embedding":[2]}],"model":"a[b]"',
        '"model":"a[b","data":[{"embedding":[1]},{"embedding":[2]}],"x":"]"',
        '"x":[],"data":[{"embedding":[1]},{"embedding":[2]}]',
        '"x":[[]],"data":[{"embedding":[1]},{"embedding":[2]}]',
        '"data":[{"embedding":[9],"embedding":[1]},{"embedding":[2]}]',
        '"data":[{"embedding":[1],"x":[9]},{"embedding":[2],"x":"[8]"}]',
        '"data":[{"x":[9],"embedding":[1]},{"embedding":[2]}]',
        '"data":[{"embedding":[1],"x":{"embedding":[9]}},{"embedding":[2]}]',
        '"data":[{"embedding":[9]}],"data":[{"embedding":[1]},{"embedding":[2]}]',
    ],
)
def test_lists_that_are_no_embeddings_are_not_taken_for_one(members: str) -> None:
    answers = unpack(f"{{{members}}}".encode(), PAIR)
    data = [json.loads(answer.body)["data"] for answer in answers]
    assert [item["embedding"] for items in data for item in items] == [[1], [2]]


@pytest.mark.parametrize(
    "items",
    [
        '{"embedding":"[1]"},{"embedding":[2]}',
        '{"embedding":[]},{"embedding":[]}',
        '{"embedding":[true,null]},{"embedding":[{}]}',
        '{"embedding":["a[b]c"]},{"embedding":["]"]}',
        '{"embedding":[-1e-05,1E2,2e+3]},{"embedding":[0.0]}',
        f'{{"embedding":[1{"0" * 300}]}},{{"embedding":[0.{"1" * 500}]}}',
    ],
)
def test_whatever_an_embedding_is_it_stands_in_its_line_as_it_came(items: str) -> None:
    answers = unpack(f'{{"data":[{items}]}}'.encode(), PAIR)
    first, second = [answer.body[len(b'{"data":[') : -len(b"]}")].decode() for answer in answers]
    assert f"{first},{second}" == items


@pytest.mark.parametrize(
    "item",
    [
        '{"embedding":[1,]}',
        '{"embedding":[01]}',
        '{"embedding":[1.]}',
        '{"embedding":[+1]}',
        '{"embedding":[1 2]}',
        '{"embedding":[1-]}',
        '{"embedding":[Infinity]}',
        '{"embedding":[1}',
        '{"embedding":1]}',
        '{"embedding":[1]]}',
        '{"embedding":[1],}',
        '{"embedding":[1] "x":2}',
    ],
)
def test_an_embedding_that_is_no_json_is_refused(item: str) -> None:
    for items in (f'{item},{{"embedding":[2]}}', f'{{"embedding":[2]}},{item}'):
        with pytest.raises(BadAnswer, match="not valid JSON"):
            unpack(f'{{"data":[{items}]}}'.encode(), PAIR)


texts = st.sampled_from(["[", "]", "{", "}", '"', ",", ":", "1", "e-5", "embedding", "data", " "])


@given(st.lists(texts, max_size=12).map("".join), st.integers(0, 1))
def test_an_answer_with_anything_in_it_gives_each_its_own_or_is_refused(
    inserted: str, place: int
) -> None:
    items = ['{"embedding":[1]}', '{"embedding":[2]}']
    items[place] = f'{{"x":{inserted},"embedding":[{place + 1}]}}'
    body = f'{{"data":[{",".join(items)}]}}'
    try:
        expected = [item["embedding"] for item in json.loads(body)["data"]]
        is_good = expected == [[1], [2]]
    except (ValueError, KeyError, TypeError):
        is_good = False
    try:
        answers = unpack(body.encode(), PAIR)
    except BadAnswer:
        assert not is_good
    else:
        assert [json.loads(one.body)["data"][0]["embedding"] for one in answers] == expected


def test_other_members_stand_in_every_answer_as_they_came() -> None:
    body = answer_of([item_of(0) | {"100%": "\x85"}, item_of(1)], **{"%é\u2028": 1.50, "id": None})
    first, second = (json.loads(answer.body) for answer in unpack(body, PAIR))
    assert first["%é\u2028"] == second["%é\u2028"] == 1.5
    assert first["data"][0]["100%"] == "\x85"


@pytest.mark.parametrize(
    "members",
    [{"model": "m" * 10_000}, {"n" * 10_000: 1}, {"usage": {"prompt_tokens": 1, "x": "y" * 9_000}}],
    ids=["a value", "a name", "the usage"],
)
def test_an_answer_whose_other_members_would_fill_the_memory_is_refused(
    members: dict[str, Any],
) -> None:
    parts = [part_of(str(number)) for number in range(256)]
    whole = json.loads(answer_of([item_of(number) for number in range(256)])) | members
    with pytest.raises(BadAnswer, match="beside its items would stand in each of 256 answers"):
        unpack(json.dumps(whole).encode(), parts)


def test_no_line_is_broken_by_a_line_separator() -> None:
    body = '{"data":[{"embedding":[1]},{"embedding":[2]}],"\u2028":"\u2029\x85"}\r\n'.encode()
    first, _ = unpack(body, PAIR)
    assert len(first.body.decode().splitlines()) == 1


finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.sampled_from(["1e999", "-1E+400", "9" * 310, "1" + "0" * 308]) | finite.map(repr)


@given(st.lists(numbers, max_size=40))
def test_embeddings_are_refused_where_a_number_is_no_double_and_only_then(
    numbers: list[str],
) -> None:
    embedding = f"[{','.join(numbers)}]"
    body = f'{{"data":[{{"embedding":{embedding}}},{{"embedding":"{embedding}"}}]}}'.encode()
    if all(math.isfinite(float(number)) for number in numbers):
        assert embedding.encode() in unpack(body, PAIR)[0].body
    else:
        with pytest.raises(BadAnswer, match="not finite"):
            unpack(body, PAIR)


def test_what_the_sandbox_answers_to_a_packed_call_is_what_it_answers_to_each_alone() -> None:
    bodies = [
        body_of(value, model="text-embedding-3-small", dimensions=8, encoding_format=form)
        for form in ("float", "base64")
        for value in ("one", ["two", "three"], "one", [5, 6], [[7], [8, 9]])
    ]
    found = [(body, part) for body in bodies if (part := read_part(body)) is not None]
    packs = [[p for p in found if p[1].key == key] for key in {part.key for _, part in found}]
    assert len(packs) == 4
    for pack in packs:
        parts = [part for _, part in pack]
        status, packed = answer_of_sandbox(EMBEDDINGS_URL, packed_body(parts))
        assert status == 200
        for (body, _), own in zip(pack, unpack(packed, parts), strict=True):
            alone, taken = (
                json.loads(text) for text in (answer_of_sandbox(EMBEDDINGS_URL, body)[1], own.body)
            )
            assert list(alone) == list(taken)
            assert alone["data"] == taken["data"]


# --- usage


@given(st.integers(0, 2**31 - 1), st.lists(st.integers(1, 10**6), min_size=1))
def test_shares_add_up_and_are_in_proportion(whole: int, weights: list[int]) -> None:
    parts = shares(whole, weights)
    assert sum(parts) == whole
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - whole * weight / sum(weights)) <= 1.000001


@pytest.mark.parametrize("figure", [-5, 2**40, "many", None, True])
def test_figures_without_sense_are_kept_and_count_as_nothing(figure: Any) -> None:
    body = answer_of([item_of(0), item_of(1)], {"prompt_tokens": figure})
    for answer in unpack(body, PAIR):
        assert json.loads(answer.body)["usage"] == {"prompt_tokens": figure}
        assert answer.usage == Usage()


@pytest.mark.parametrize("usage", [None, [], "none", 3, {}])
def test_a_usage_that_is_no_object_is_kept(usage: Any) -> None:
    body = answer_of([item_of(0), item_of(1)]).replace(
        b'{"prompt_tokens":10,"total_tokens":10}', json.dumps(usage).encode()
    )
    assert [json.loads(answer.body)["usage"] for answer in unpack(body, PAIR)] == [usage] * 2


def test_an_answer_without_usage_gives_answers_without() -> None:
    body = b'{"data":[{"index":0,"embedding":[1]},{"index":1,"embedding":[2]}]}'
    assert unpack(body, PAIR)[1].body == b'{"data":[{"index":0,"embedding":[2]}]}'


def test_details_and_amounts_are_shared_too() -> None:
    usage = {
        "prompt_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4, "kind": "text"},
        "cost": 0.5,
    }
    first, second = unpack(answer_of([item_of(0), item_of(1)], usage), PAIR)
    assert first.usage == second.usage == Usage(4, 2)
    assert json.loads(first.body)["usage"] == {
        "prompt_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 2, "kind": "text"},
        "cost": 0.25,
    }
