"""Packing: several embedding requests as one call, and its answer taken apart again. Bytes only.

Theory of operation. A body is cut into the value of its `input` and all the rest, the *key*.
Bodies with the same key, byte for byte, may share a call: the inputs are joined into one list and
put where the first `input` stood. Texts and token ids never share a call, since the API takes lists
of one kind (platform.openai.com/docs/api-reference/embeddings/create). A body that is not plainly
of a known form has no key and is sent alone.

The answer is held to the same check as any other, and to more: as many items as inputs, and their
`index` fields a permutation of 0 … n-1, or all absent. Anything else is a `BadAnswer` of the whole
call, so no request is given another's embedding. What is spliced is not decoded: an embedding, of
floats or base64, stands in its line as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise, repeat
from typing import Any, Final

import msgspec
from msgspec import Raw

from batchwright.domain.answers import BadAnswer, CheckedAnswer, check_answer
from batchwright.domain.strict_json import BadJson, check_walked, keys
from batchwright.domain.usage import TOKENS_MAX, Usage

EMBEDDINGS_URL: Final = "/v1/embeddings"

# Where `input` stood in a key: control characters, which no JSON text holds raw.
_TEXTS: Final = b"\0"
_TOKENS: Final = b"\1"
_NAME: Final = b'"input"'
_NAME_AND_COLON: Final = re.compile(rb'"input"[ \t\r\n]*+:[ \t\r\n]*+')
_SPACE: Final = re.compile(rb"[ \t\r\n]*")


class Part(msgspec.Struct, frozen=True, gc=False):
    """What a request brings to a packed call."""

    key: bytes  # its body without the inputs; equal keys may share a call
    items: bytes  # its inputs as they stand in a list, without the brackets
    inputs: int  # how many they are, at least 1


class _Input(msgspec.Struct, gc=False):
    input: Raw = Raw()


_decode_input = msgspec.json.Decoder(_Input).decode
_decode_texts = msgspec.json.Decoder(list[str]).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode
_decode_lists = msgspec.json.Decoder(list[list[int]]).decode


def read_part(body: bytes) -> Part | None:
    """What a validated body brings to a packed call; None where it is to be sent alone.

    Taken are a text, a list of texts, a list of token ids and a list of such lists, none empty.
    """
    value = bytes(_decode_input(body).input)
    found = _items(value)
    if found is None:
        return None
    mark, items, inputs = found
    start = _start(body, value)
    return Part(body[:start] + mark + body[start + len(value) :], items, inputs)


def packed_body(parts: Sequence[Part]) -> bytes:
    """The body of one call for all `parts`, which have the same key."""
    key = parts[0].key
    mark = _TEXTS if _TEXTS in key else _TOKENS
    before, _, after = key.partition(mark)
    return b"%b[%b]%b" % (before, b",".join([part.items for part in parts]), after)


def unpack(body: bytes, parts: Sequence[Part]) -> list[CheckedAnswer]:
    """The answers of the `parts` of a packed call, in their order, from the `body` of its 200.

    Each has its own items, numbered from 0, and its share of the usage: in proportion to the bytes
    of its inputs, with the shares adding up to the whole. The other members are those of the call.
    Raises `BadAnswer`.
    """
    members, items, whole = _read(body)
    items = _in_order(items, sum([part.inputs for part in parts]))
    weights = [len(part.items) for part in parts]
    texts = _usage_texts(members.get("usage"), weights)
    form, forms = _form(tuple(members)), _Forms()
    cut = iter(items)
    answers: list[CheckedAnswer] = []
    for part, usage, text in zip(parts, _usages(whole, weights), texts, strict=True):
        members["data"] = _data(cut, part.inputs, forms)
        if text is not None:
            members["usage"] = text
        answers.append(CheckedAnswer(form % (*members.values(),), usage))
    return answers


def shares(whole: int, weights: Sequence[int]) -> list[int]:
    """`whole` in parts in proportion to `weights`, each within 1 of it; their sum is exact."""
    total = sum(weights)
    bounds = [whole * sum_so_far // total for sum_so_far in accumulate(weights, initial=0)]
    return [high - low for low, high in pairwise(bounds)]


# The body of a request


def _start(body: bytes, value: bytes) -> int:
    """Where the `value` of the `input` at the top of `body` starts."""
    if name := _NAME_AND_COLON.search(body):
        start = name.end()
        behind = start + len(value)
        # With an escape or a second `input` outside of it, this may be another's member.
        is_plain = body.find(b"\\", 0, start) < 0 and body.find(b"\\", behind) < 0
        if is_plain and body.startswith(value, start) and body.find(_NAME, behind) < 0:
            return start
    behind_colon = next(offset for key, offset in keys(body) if key == "input")
    space = _SPACE.match(body, behind_colon)
    return space.end() if space else behind_colon


def _items(value: bytes) -> tuple[bytes, bytes, int] | None:
    """Mark, items and number of inputs of a value of `input`; None where it is none of ours."""
    if value.startswith(b'"'):
        return (_TEXTS, value, 1) if len(value) > 2 else None
    if not value.startswith(b"["):
        return None
    inner = value[1:-1]
    first = inner.lstrip()[:1]
    try:
        if first == b'"':
            texts = _decode_texts(value)
            return (_TEXTS, inner, len(texts)) if all(texts) else None
        if first == b"[":
            lists = _decode_lists(value)
            return (_TOKENS, inner, len(lists)) if all(lists) else None
        return (_TOKENS, value, 1) if _decode_ids(value) else None
    except msgspec.ValidationError:
        return None


# The answer

_Members = dict[str, Any]
"""The members of an object, each a text that is not decoded."""
_Forms = dict[tuple[str, ...], bytes]
"""The formats of the items of one answer, by their names."""

_decode_members: Callable[[Any], _Members] = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_items: Callable[[Any], list[_Members]] = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_decode_value = msgspec.json.Decoder().decode


def _read(body: bytes) -> tuple[_Members, list[_Members], Usage]:
    """The members, the items of `data` and the usage of an answer that passed the check.

    Most of an answer are its embeddings, and a quick look clears nearly all of them.
    `check_answer` is shown the answer without them.
    """
    try:
        members = _decode_members(_single_line(body))
        items = _decode_items(members["data"])
        embeddings = [bytes(item["embedding"]) for item in items]
    except (msgspec.DecodeError, KeyError, RecursionError):
        check_answer(EMBEDDINGS_URL, body)  # it knows the reason, unless an item is at fault
        raise BadAnswer("an item of `data` is no object with an embedding") from None
    _check_embeddings(embeddings)
    names = _Forms()
    hollow = [_with(item, "embedding", b"0", names) for item in items]
    members["data"] = b"[%b]" % b",".join(hollow)
    usage = check_answer(EMBEDDINGS_URL, _form(tuple(members)) % (*members.values(),)).usage
    for item, embedding in zip(items, embeddings, strict=True):
        item["embedding"] = embedding
    return members, items, usage


def _single_line(body: bytes) -> bytes:
    if not body.isascii():
        return check_answer(EMBEDDINGS_URL, body).body
    if b"\n" in body or b"\r" in body:
        _decode_members(body)  # so that no line break is in a string
        return body.replace(b"\r", b" ").replace(b"\n", b" ")
    return body


def _check_embeddings(embeddings: list[bytes]) -> None:
    for embedding in embeddings:
        if embedding[:1] == b'"' or _is_surely_sound(embedding):
            continue
        if embedding[:1] != b"[":
            raise BadAnswer("an embedding is neither a list nor a text")
        try:
            check_walked(b"[[[%b]]]" % embedding)  # as deep as it stands in the answer
        except BadJson as cause:
            raise BadAnswer(f"an embedding is {cause.reason.partition(':')[0]}") from cause


def _is_surely_sound(embedding: bytes) -> bool:
    """Whether it is a flat list in which no number can be beyond a double.

    That takes an exponent without a minus, or more digits than are looked at between two commas.
    """
    find, rfind = embedding.find, embedding.rfind
    if embedding[:1] != b"[" or find(b"[", 1) > 0 or find(b"{") > 0 or find(b"E") > 0:
        return False
    at = find(b"e")
    while at > 0:
        if embedding[at + 1 : at + 2] != b"-":
            return False
        at = find(b"e", at + 1)
    at, last = 0, len(embedding) - _NUMBER_BYTES_MAX
    while at < last:
        at = rfind(b",", at, at + _NUMBER_BYTES_MAX) + 1
        if not at:
            return False
    return True


_NUMBER_BYTES_MAX = 300  # a number of so many digits is still within a double


def _in_order(items: list[_Members], expected: int) -> list[_Members]:
    """The items in the order of the inputs. Raises `BadAnswer` where that is not certain."""
    if len(items) != expected:
        raise BadAnswer(f"{len(items)} embeddings for {expected} inputs")
    numbered = sum(["index" in item for item in items])
    if not numbered:
        return items
    if numbered < expected:
        raise BadAnswer("some embeddings have an index and some have none")
    return _by_index(items)


def _by_index(items: list[_Members]) -> list[_Members]:
    try:
        indices = [int(bytes(item["index"])) for item in items]
    except ValueError:
        raise BadAnswer("the index of an embedding is no whole number") from None
    in_order = list(range(len(items)))
    if indices == in_order:
        return items
    if sorted(indices) != in_order:
        raise BadAnswer("the indices of the embeddings are not those of the inputs")
    by_index = dict(zip(indices, items, strict=True))
    return [by_index[index] for index in in_order]


def _data(items: Iterator[_Members], count: int, forms: _Forms) -> bytes:
    """The next `count` items as a list, numbered from 0."""
    if count == 1:
        return b"[%b]" % _with(next(items), "index", b"0", forms)
    numbers = map(b"%d".__mod__, range(count))
    return b"[%b]" % b",".join([_with(next(items), "index", number, forms) for number in numbers])


def _with(item: _Members, name: str, value: bytes, forms: _Forms) -> bytes:
    """The text of an item with another value under a name, if it has that."""
    if name in item:
        item[name] = value
    names = tuple(item)
    form = forms.get(names)
    if form is None:
        form = forms[names] = _form(names)
    return form % (*item.values(),)


def _form(names: tuple[str, ...]) -> bytes:
    """A format that makes an object of these names out of the texts of their values."""
    # In ASCII: a name must not hold a character that some reader takes for the end of a line.
    escaped = [json.dumps(name).encode().replace(b"%", b"%%") for name in names]
    return b"{" + b",".join([name + b":%b" for name in escaped]) + b"}"


# Usage


def _usages(whole: Usage, weights: Sequence[int]) -> Iterator[Usage]:
    figures = (
        whole.input_tokens,
        whole.cached_tokens,
        whole.output_tokens,
        whole.reasoning_tokens,
    )
    columns = [shares(figure, weights) if figure else repeat(0, len(weights)) for figure in figures]
    return map(Usage, *columns)


def _usage_texts(usage: Any, weights: Sequence[int]) -> Iterable[bytes | None]:
    """What stands as `usage` in the answer of each; None where the call's is to be kept."""
    text = b"" if usage is None else bytes(usage)
    return _object_shares(text, weights) if text.startswith(b"{") else repeat(None, len(weights))


def _object_shares(text: bytes, weights: Sequence[int]) -> Iterable[bytes]:
    members = _decode_members(text)
    form = _form(tuple(members))
    if not members:
        return repeat(form, len(weights))
    columns = [_value_shares(bytes(value), weights) for value in members.values()]
    return map(form.__mod__, zip(*columns, strict=True))


def _value_shares(text: bytes, weights: Sequence[int]) -> Iterable[bytes]:
    """A count or an amount is shared; anything else, and figures without sense, is repeated."""
    if text.startswith(b"{"):
        return _object_shares(text, weights)
    value = _decode_value(text) if text[:1].isdigit() else None
    if isinstance(value, int) and 0 < value <= TOKENS_MAX:
        return map(b"%d".__mod__, shares(value, weights))
    if isinstance(value, float):
        per_byte = value / sum(weights)
        return [msgspec.json.encode(per_byte * weight) for weight in weights]
    return repeat(text, len(weights))
