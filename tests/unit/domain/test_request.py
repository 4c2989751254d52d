from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.domain.request import Request, parse_request, with_model

NAMES = st.sampled_from(["m", "", 'q"q', "a/b", "模型", "back\\slash", "model", "\u0000"])
VALUES = st.recursive(
    st.one_of(NAMES, st.integers(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner)),
    max_leaves=6,
)


def test_a_request_keeps_its_body_to_the_byte() -> None:
    body = b'{ "model" : "m\\u0041",  "x":[1 , 2.50]}'
    raw = (
        b'{"method":"POST","custom_id":"\\u00e9 1","url":"/v1/x","extra":[1],"body":' + body + b"}"
    )

    assert parse_request(7, raw) == Request(7, "é 1", "/v1/x", body, "mA")


def test_what_the_batch_says_of_all_its_lines_is_not_looked_for() -> None:
    line = b'{"custom_id":"a","method":"POST","url":"/embeddings","body":{"model":"m"}}'
    asked = parse_request(7, line)
    told = parse_request(7, line, "/v1/embeddings", "m")
    assert (asked.url, asked.model) == ("/embeddings", "m")
    assert told == Request(7, "a", "/v1/embeddings", b'{"model":"m"}', "m")


def test_a_body_without_a_model_has_an_empty_name() -> None:
    raw = b'{"custom_id":"a","url":"/v1/moderations","body":{"input":"x"}}'

    assert parse_request(1, raw).model == ""


@given(st.dictionaries(NAMES, VALUES), NAMES, NAMES, st.booleans(), st.booleans())
def test_only_the_value_of_the_model_is_replaced(
    fields: dict[str, object], model: str, new_model: str, is_last: bool, is_ascii: bool
) -> None:
    fields.pop("model", None)
    fields = fields | {"model": model} if is_last else {"model": model} | fields
    body = json.dumps(fields, ensure_ascii=is_ascii).encode()

    changed = with_model(body, model, new_model)

    old_value = json.dumps(model, ensure_ascii=is_ascii).encode()
    prefix, suffix = body_around_model(fields, is_ascii)
    assert prefix + old_value + suffix == body
    assert changed.startswith(prefix)
    assert changed.endswith(suffix)
    assert json.loads(changed) == fields | {"model": new_model}


def body_around_model(fields: dict[str, object], is_ascii: bool) -> tuple[bytes, bytes]:
    mark = "\x01unlikely mark"
    marked = json.dumps(fields | {"model": mark}, ensure_ascii=is_ascii).encode()
    prefix, suffix = marked.split(json.dumps(mark).encode())
    return prefix, suffix


def test_equal_names_return_the_same_body() -> None:
    body = b'{"model": "m"}'

    assert with_model(body, "m", "m") is body


def test_a_body_without_a_model_stays_as_it_is() -> None:
    assert with_model(b'{"input":"x"}', "", "new") == b'{"input":"x"}'


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"x":["m","m"],"model" :\t"m" }', b'{"x":["m","m"],"model" :\t"new" }'),
        (b'{"x":{"model":"m"},"model":"m"}', b'{"x":{"model":"m"},"model":"new"}'),
        (b'{"mod\\u0065l":"m","x":"m"}', b'{"mod\\u0065l":"new","x":"m"}'),
        (b'{"x":"\\"model\\":\\"m\\"","model":"\\u006d"}', None),
    ],
)
def test_look_alikes_of_the_model_stay(body: bytes, changed: bytes | None) -> None:
    expected = changed or b'{"x":"\\"model\\":\\"m\\"","model":"new"}'

    assert with_model(body, "m", "new") == expected
