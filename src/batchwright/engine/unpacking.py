"""Unpacking: the answer to a packed call, taken apart again. Bytes only.

The answer is held to the same check as any other, and to more: as many items as inputs, and their
`index` fields a permutation of 0 … n-1, or all absent. Anything else is a `BadAnswer` of the whole
call, so no request is given another's embedding. What is spliced is not decoded: an embedding, of
floats or base64, stands in its line as it came.

Most of an answer are its embeddings. Where they are plain lists of numbers they are cut out, and
each is read once, as nothing but a list; the rest of the answer is short. Any other answer is read
as it is, which takes longer and gives the same.
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
from batchwright.domain.strict_json import BadJson, check_walked
from batchwright.domain.usage import TOKENS_MAX, Usage
from batchwright.engine.packing import EMBEDDINGS_URL, Part

_Members = dict[str, Any]
"""The members of an object, each a text that is not decoded."""
_Item = tuple[_Members, bytes]
"""An item of `data`, and its embedding apart from it."""
_Around = tuple[bytes, bytes]
"""The text of an object before and after the value of one member."""

_decode_members: Callable[[Any], _Members] = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_items: Callable[[Any], list[_Members]] = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_decode_raw = msgspec.json.Decoder(Raw).decode
_decode_value = msgspec.json.Decoder().decode


_EMPTY: Final = b"[]"
BESIDE_BYTES_MAX: Final = 2**20  # the items apart: what all answers may have more than the call's


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
    _check_repeated(members, body, len(parts))
    frames, around = _Frames("embedding"), dict[bytes | None, _Around]()
    cut = iter(items)
    answers: list[CheckedAnswer] = []
    for part, usage, text in zip(parts, _usages(whole, weights), texts, strict=True):
        if text not in around:
            around[text] = _around_data(members, text)
        before, after = around[text]
        data = _data(cut, part.inputs, frames)
        answers.append(CheckedAnswer(b"".join((before, *data, after)), usage))
    return answers


# Reading


def _read(body: bytes) -> tuple[_Members, list[_Item], Usage]:
    """The members, the items and the usage of an answer that passed the check."""
    text = _single_line(body)
    return _read_plain(text) or _read_any(text)


def _read_plain(text: bytes) -> tuple[_Members, list[_Item], Usage] | None:
    """The same where all embeddings are plain lists of numbers; None where it may be otherwise.

    In the place of each list but the first, an empty one is left behind. So the first alone can
    hold items. Where these are as many as the lists that were cut out, and each has an empty list
    as its embedding, every list was cut out of the item that has its place.
    """
    hollow, lists = _cut_lists(text)
    if not lists or not _has_short_numbers(text) or not all(map(_is_plain, lists)):
        return None
    try:
        members = _decode_members(hollow)
        items = _decode_items(members["data"])
        are_embeddings = [bytes(item["embedding"]) for item in items] == [_EMPTY] * len(lists)
    except (msgspec.DecodeError, KeyError, RecursionError):
        return None
    if not are_embeddings:
        return None
    usage = check_answer(EMBEDDINGS_URL, hollow).usage
    return members, list(zip(items, lists, strict=True)), usage


def _cut_lists(text: bytes) -> tuple[bytes, list[bytes]]:
    """The text with an empty list in the place of each but the first, and these lists."""
    find, rest, lists = text.find, list[bytes](), list[bytes]()
    kept_from, at = 0, find(b"[") + 1
    while (start := find(b"[", at)) > 0:
        at = find(b"]", start) + 1
        if not at:
            break
        rest.append(text[kept_from:start])
        lists.append(text[start:at])
        kept_from = at
    rest.append(text[kept_from:])
    return _EMPTY.join(rest), lists


def _is_plain(found: bytes) -> bool:
    """Whether it is a flat list that needs no closer look, if it has no number of many digits.

    It holds no object, which would have quotes, and no exponent without a minus: no number is
    beyond a double.
    """
    find = found.find
    if find(b'"') > 0 or find(b"E") > 0 or find(b"[", 1) > 0:
        return False
    at = find(b"e")
    while at > 0:
        if found[at + 1 : at + 2] != b"-":
            return False
        at = find(b"e", at + 1)
    try:
        _decode_raw(found)
    except msgspec.DecodeError:
        return False
    return True


# With a comma in each 300 bytes no number has more digits than a double has room for.
_has_short_numbers = re.compile(rb"(?s:(?:.{0,299},)*+.{0,299})").fullmatch


def _read_any(text: bytes) -> tuple[_Members, list[_Item], Usage]:
    """The same, whatever it is. `check_answer` is shown the answer without its embeddings."""
    try:
        members = _decode_members(text)
        items = _decode_items(members["data"])
        embeddings = [bytes(item["embedding"]) for item in items]
    except (msgspec.DecodeError, KeyError, RecursionError):
        check_answer(EMBEDDINGS_URL, text)  # it knows the reason, unless an item is at fault
        raise BadAnswer("an item of `data` is no object with an embedding") from None
    for embedding in embeddings:
        _check_embedding(embedding)
    frames = _Frames("embedding")
    hollow = [b"0".join(frames.around(item)) for item in items]
    before, after = _Frames("data").around(members)
    usage = check_answer(EMBEDDINGS_URL, b"%b[%b]%b" % (before, b",".join(hollow), after)).usage
    return members, list(zip(items, embeddings, strict=True)), usage


def _single_line(body: bytes) -> bytes:
    if not body.isascii():
        return check_answer(EMBEDDINGS_URL, body).body
    if b"\n" in body or b"\r" in body:
        try:
            _decode_members(body)
        except (msgspec.DecodeError, RecursionError):
            return body  # a line break may be in a string
        return body.replace(b"\r", b" ").replace(b"\n", b" ")
    return body


def _check_embedding(embedding: bytes) -> None:
    if embedding[:1] == b'"':
        return
    if embedding[:1] != b"[":
        raise BadAnswer("an embedding is neither a list nor a text")
    try:
        check_walked(b"[[[%b]]]" % embedding)  # as deep as it stands in the answer
    except BadJson as cause:
        raise BadAnswer(f"an embedding is {cause.reason.partition(':')[0]}") from cause


def _in_order(items: list[_Item], expected: int) -> list[_Item]:
    """The items in the order of the inputs. Raises `BadAnswer` where that is not certain."""
    if len(items) != expected:
        raise BadAnswer(f"{len(items)} embeddings for {expected} inputs")
    numbered = sum(["index" in item for item, _ in items])
    if not numbered:
        return items
    if numbered < expected:
        raise BadAnswer("some embeddings have an index and some have none")
    return _by_index(items)


def _by_index(items: list[_Item]) -> list[_Item]:
    try:
        indices = [int(bytes(item["index"])) for item, _ in items]
    except ValueError:
        raise BadAnswer("the index of an embedding is no whole number") from None
    in_order = list(range(len(items)))
    if indices == in_order:
        return items
    if sorted(indices) != in_order:
        raise BadAnswer("the indices of the embeddings are not those of the inputs")
    by_index = dict(zip(indices, items, strict=True))
    return [by_index[index] for index in in_order]


# The text of an answer


def _check_repeated(members: _Members, body: bytes, parts: int) -> None:
    """Raises `BadAnswer` where the answers would be much larger than the one they come from: what
    stands around its items stands around those of each."""
    beside = sum(map(len, _around_data(members, None)))
    if beside * parts > BESIDE_BYTES_MAX + len(body):
        raise BadAnswer(f"{beside:,} bytes beside its items would stand in each of {parts} answers")


def _around_data(members: _Members, usage: bytes | None) -> _Around:
    """The answer around its items, with another usage where one is given."""
    if usage is not None:
        members["usage"] = usage
    before, after = _Frames("data").around(members)
    return before + b"[", b"]" + after


def _data(items: Iterator[_Item], count: int, frames: _Frames) -> list[bytes]:
    """The next `count` items, numbered from 0, as pieces of text: the embeddings are long."""
    pieces: list[bytes] = []
    for number in range(count):
        item, embedding = next(items)
        if "index" in item:
            item["index"] = b"%d" % number
        before, after = frames.around(item)
        pieces += (before, embedding, after) if not number else (b",", before, embedding, after)
    return pieces


class _Frames:
    """What stands around the value of the member `name` in the text of an object."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._forms: dict[tuple[str, ...], tuple[int, bytes, bytes]] = {}  # by names

    def around(self, members: _Members) -> _Around:
        names = tuple(members)
        found = self._forms.get(names)
        if found is None:
            found = self._forms[names] = self._split(names)
        place, before, after = found
        values = tuple(members.values())
        return before % values[:place], after % values[place + 1 :]

    def _split(self, names: tuple[str, ...]) -> tuple[int, bytes, bytes]:
        """How many members stand before it, and the formats before and after it."""
        place = names.index(self._name)
        start = b"".join([_key(name) + b":%b," for name in names[:place]])
        end = b"".join([b"," + _key(name) + b":%b" for name in names[place + 1 :]])
        return place, b"{" + start + _key(self._name) + b":", end + b"}"


def _form(names: tuple[str, ...]) -> bytes:
    """A format that makes an object of these names out of the texts of their values."""
    return b"{" + b",".join([_key(name) + b":%b" for name in names]) + b"}"


def _key(name: str) -> bytes:
    # In ASCII: a name must not hold a character that some reader takes for the end of a line.
    return json.dumps(name).encode().replace(b"%", b"%%")


# Usage


def shares(whole: int, weights: Sequence[int]) -> list[int]:
    """`whole` in parts in proportion to `weights`, each within 1 of it; their sum is exact."""
    total = sum(weights)
    bounds = [whole * sum_so_far // total for sum_so_far in accumulate(weights, initial=0)]
    return [high - low for low, high in pairwise(bounds)]


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
