"""Strict reading of JSON that is forwarded as it came.

What is refused, anywhere in a text: bytes that are not UTF-8, anything but one JSON value
(RFC 8259, so no `NaN`, no control characters in strings), nesting deeper than 100, half of a
surrogate pair, and a number beyond the range of a double, which a reader would take for
infinity: `1e400` as well as an integer of 400 digits. A key given twice is refused in the
objects that we read ourselves (the line and its `body`); deeper ones are the provider's.

How it is quick: nothing but those two objects is built. `msgspec` walks over what it is told
to leave raw and checks grammar and surrogates on the way, at 2 GB/s, but neither UTF-8 nor
range nor depth (it gives up at about 1,000 levels). For these, one more pass keeps the digits,
the `e`s and the brackets of a text, wherever they stand: a tenth of it, in which cheap bounds
show that nearly every line is good. Only one that they do not clear is looked at without its
strings, exactly. Every step is linear, none recurses, and beyond copies of the line none holds
more than a window.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator
from itertools import accumulate
from typing import Final

import msgspec
from msgspec import Raw

DEPTH_MAX: Final = 100
KEYS_MAX: Final = 1_000
_KEY_CHARS_SHOWN: Final = 64

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_raw = msgspec.json.Decoder(Raw).decode
_decode = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class BadJson(ValueError):
    """The text breaks a rule of this module; `reason` completes "the line is …"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DuplicateKey(BadJson):
    """`key` (its start) stands twice in an object that we read."""

    def __init__(self, key: str) -> None:
        super().__init__(f"ambiguous: it has the key {key[:_KEY_CHARS_SHOWN]!r} twice")
        self.key = key[:_KEY_CHARS_SHOWN]


def check(line: bytes) -> None:
    """Raise `BadJson` unless `line` is strict JSON, with `body` at its top held to it too."""
    body = (read(line) or {}).get("body")
    if body is not None:
        members(bytes(body))


def read(line: bytes) -> dict[str, Raw] | None:
    """Check all of `line`; return the members of its object, None where it is another value.

    Raises `BadJson`. The members share the memory of `line`.
    """
    check_utf8(line)
    try:
        found = members(line)
        if found is None:
            _decode_raw(line)
    except RecursionError:
        raise BadJson(_TOO_DEEP) from None
    except msgspec.DecodeError as error:
        raise BadJson(_grammar_reason(line, error)) from None
    check_bounds(line)
    return found


def check_walked(text: bytes) -> None:
    """Check what `msgspec` does not where it walks over raw values: UTF-8, depth and range.

    Raises `BadJson`. `text` is JSON that a typed decode has taken.
    """
    check_utf8(text)
    check_bounds(text)


def doubtful_lines(chunk: bytes) -> Container[int]:
    """Which lines of a chunk `check_walked` has to look at: the others pass it.

    They are counted from 0, which is that of the first byte and always among them: it may have
    begun in an earlier chunk. What follows the last line feed does not count. A look at many lines
    takes little longer than one at a single line.
    """
    if b"\n" not in chunk:
        return ()
    if not chunk.isascii():
        try:
            chunk[chunk.find(b"\n") + 1 : chunk.rfind(b"\n") + 1].decode()
        except UnicodeDecodeError:
            return range(chunk.count(b"\n"))
    skeletons = chunk.translate(_SKELETON, _NOT_IN_SKELETONS)
    doubtful = frozenset((0,))
    if _MANY_OPENED in skeletons.translate(None, b"0e]"):  # in one line
        lines = enumerate(skeletons.split(b"\n"))
        doubtful |= {number for number, line in lines if _may_be_deep(line)}
    if _may_be_out_of_range(skeletons):
        lines = enumerate(skeletons.split(b"\n"))
        doubtful |= {number for number, line in lines if _may_be_out_of_range(line)}
    return doubtful


def check_bounds(text: bytes) -> None:
    """Raise `BadJson` where the JSON `text` is too deep or has a number beyond a double.

    `text` is JSON that a typed decode has taken.
    """
    classes = text.translate(_CLASSES)
    if classes.count(b"[") > DEPTH_MAX:
        _check_depth(text)
    if _may_overflow(text, classes):
        _check_numbers(text)


def members(text: bytes) -> dict[str, Raw] | None:
    """The members of the JSON object `text`, undecoded; None where it is another value.

    Raises `BadJson` for a key given twice and for more than 1,000 keys. What is inside the
    values is not checked: for a part of a text that `read` has checked.
    """
    if len(text) > _MANY_BYTES and text.count(b":") > _MANY_KEYS:
        _check_keys(text)
    try:
        found = _decode_members(text)
    except msgspec.ValidationError:
        return None
    # Written anew, it is no longer than it was; a member that a later one of the same key has
    # replaced took at least `,"":0`.
    spare_bytes = len(text) - len(_encode(found))
    if len(found) > KEYS_MAX or (
        spare_bytes >= 5 and not _is_surely_unique(text, found, spare_bytes)
    ):
        _check_keys(text)
    return found


def keys(text: bytes) -> Iterator[tuple[str, int]]:
    """Each key at the top of the object `text` with the offset behind its colon, in order."""
    depth = 0
    for token in _TOKEN.finditer(text):
        first = token[0][:1]
        if first == b'"':
            if depth == 1 and token[1]:
                yield _decode_text(token[0][:-1].rstrip()), token.end()
        elif first in b"[{":
            depth += 1
        else:
            depth -= 1


# UTF-8 and grammar


def check_utf8(text: bytes) -> None:
    """Raise `BadJson` where `text` is not UTF-8."""
    if text.isascii():
        return
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise BadJson(f"not UTF-8: {error.reason} (byte {error.start})") from None


_TOO_DEEP = f"nested deeper than {DEPTH_MAX} levels"
_SURROGATE = re.compile(
    rb"(?:^|[^\\])(?:\\\\)*+"
    rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|\\u[dD][c-fC-F])"
)


def _grammar_reason(line: bytes, error: msgspec.DecodeError) -> str:
    text = str(error).removeprefix("JSON is malformed: ")
    if "surrogate" in text or ("truncated" in text and _SURROGATE.search(line)):
        return "not valid text: a \\u escape is half of a surrogate pair"
    return f"not valid JSON: {text[:1].lower()}{text[1:]}"


# Keys

_MANY_BYTES = 64 * 2**10
_MANY_KEYS = 20_000
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(?:[ \t\r\n]*+(:))?+|[\[{}\]]')


def _is_surely_unique(text: bytes, found: dict[str, Raw], spare_bytes: int) -> bool:
    """Whether what `found` does not account for is too little to hold a dropped member.

    It is white space, or members that a later one of the same key replaced, each of at least
    `,"key":0`. Where there is more white space than that, quotes are counted: a dropped member has
    two.
    """
    if not found or spare_bytes < 5 + min(map(len, found)):
        return True
    kept_quotes = 2 * len(found) + sum(bytes(value).count(b'"') for value in found.values())
    return text.count(b'"') == kept_quotes


def _check_keys(text: bytes) -> None:
    seen: set[str] = set()
    for key, _ in keys(text):
        if key in seen:
            raise DuplicateKey(key)
        seen.add(key)
        if len(seen) > KEYS_MAX:
            raise BadJson(f"too wide: an object has more than {KEYS_MAX:,} keys")


# The skeletons of many texts, one a line: their digits as `0`, `e` and `E` as `e`, and their
# brackets as `[` and `]`, those in strings too. What stood together still does, so that bounds on
# a skeleton hold for its text.

_SKELETON = bytes.maketrans(b"0123456789E{}", b"0000000000e[]")
_NOT_IN_SKELETONS = bytes(set(range(256)) - set(b"0123456789eE[]{}\n"))
_MANY_OPENED = b"[" * (DEPTH_MAX + 1)


def _may_be_out_of_range(skeleton: bytes) -> bool:
    """Unless no number has an exponent of three digits (its plus sign is left out), and none has
    many digits."""
    # The search from the end looks for the `0`: an `e` is more common.
    return skeleton.rfind(b"0e000") >= 0 or skeleton.find(_LONG_RUN) >= 0


def _may_be_deep(skeleton: bytes) -> bool:
    return skeleton.count(b"[") > DEPTH_MAX and not _is_surely_flat(skeleton)


def _is_surely_flat(skeleton: bytes) -> bool:
    """Whether too few brackets open before any point, or close behind it, to be deep there."""
    brackets = skeleton.translate(None, b"0e")
    half = len(brackets) // 2
    opened, closed = brackets.count(b"[", 0, half), brackets.count(b"]", half)
    return max(opened, closed) <= DEPTH_MAX


# A number overflows through an exponent of three digits or more, or through more digits
# before the point than this (155 + 154 > 308).
_DIGITS_MAX = 154
_LONG_RUN = b"0" * (_DIGITS_MAX + 1)
_STRIDE = 8
_SAMPLED_RUN = b"0" * (_DIGITS_MAX // _STRIDE)
_NUMBER = re.compile(rb"[0-9][0-9.]*+(?:[eE][+-]?+[0-9]++)?+")
_NUMBER_BYTES = b"0123456789.-"
_BEFORE_NUMBER = b" \t\r\n:,["
_STRUCTURE = b'[]{}"'
_ESCAPES = b"\\/bfnrtu"
_NO_STRUCTURE = bytes(set(range(256)) - set(_STRUCTURE))
_NEITHER_STRUCTURE_NOR_ESCAPE = bytes(set(_NO_STRUCTURE) - set(_ESCAPES))
_STEPS = {ord("["): 1, ord("]"): -1}
_ONE_BRACKET = bytes.maketrans(b"{}", b"[]")
_WINDOW_BYTES = 64 * 2**10


def _classes() -> bytes:
    table = bytearray(b" " * 256)
    for members, mark in ((b"0123456789+", b"0"), (b"eE", b"e"), (b"[{", b"[")):
        for byte in members:
            table[byte] = ord(mark)
    return bytes(table)


# The classes of a text: as its skeleton, but each byte in its place, and a plus sign as a digit.
_CLASSES = _classes()


def _check_numbers(text: bytes) -> None:
    """Raise `BadJson` where a number of the checked JSON `text` is beyond a double."""
    for number in _NUMBER.finditer(outside_strings(text)):
        if math.isinf(float(number[0])):
            raise BadJson(f"not finite: the number {number[0][:32].decode()} is out of range")


def _may_overflow(text: bytes, classes: bytes) -> bool:
    # The search from the end looks for the `0`: an `e` is more common.
    if classes.rfind(b"0e000") >= 0 and _has_exponent(text, classes):
        return True
    # A run of digits that is too long shows as a run in every eighth byte too.
    return _SAMPLED_RUN in classes[::_STRIDE] and _LONG_RUN in classes


def _has_exponent(text: bytes, classes: bytes) -> bool:
    """Whether some `0e000` may belong to a number: in ids of hexadecimal digits they are common,
    but a letter or a quote stands before their first digit."""
    at = classes.find(b"0e000")
    while at >= 0:
        start = at
        while start and text[start - 1] in _NUMBER_BYTES:
            start -= 1
        if not start or text[start - 1] in _BEFORE_NUMBER:
            return True
        at = classes.find(b"0e000", at + 1)
    return False


def outside_strings(line: bytes) -> bytes:
    """The checked JSON text `line` without its strings: brackets, numbers, commas, colons."""
    line = _without_escaped_quotes(line)
    outside: list[bytes] = []
    is_inside = 0
    for start in range(0, len(line), _WINDOW_BYTES):
        parts = line[start : start + _WINDOW_BYTES].split(b'"')
        outside.append(b"".join(parts[is_inside::2]))
        is_inside ^= (len(parts) - 1) & 1
    return b"".join(outside)


def _without_escaped_quotes(line: bytes) -> bytes:
    """After this, each quote opens or closes a string."""
    if b"\\" not in line:
        return line
    return line.replace(b"\\\\", b"").replace(b'\\"', b"")


def _check_depth(text: bytes) -> None:
    """Raise `BadJson` where the checked JSON `text` has more than 100 levels."""
    escapes_kept = text.translate(_ONE_BRACKET, _NEITHER_STRUCTURE_NOR_ESCAPE)
    structure = _without_escaped_quotes(escapes_kept).translate(None, _NO_STRUCTURE)
    # Most strings hold no bracket and are two quotes now; no pair of quotes, not even of two
    # neighbours, parts a bracket from its side of a string.
    brackets = outside_strings(structure.replace(b'""', b""))
    is_deep = _is_deep if len(brackets) <= _WINDOW_BYTES else _is_deep_in_windows
    if is_deep(brackets):
        raise BadJson(_TOO_DEEP)


def _is_deep(brackets: bytes) -> bool:
    for levels in range(DEPTH_MAX, -1, -1):
        if len(brackets) <= 2 * levels:
            return False
        brackets = brackets.replace(b"[]", b"")  # the innermost pairs
    return True


def _is_deep_in_windows(brackets: bytes) -> bool:
    """The same by counting: slower for little, but no step of it takes long."""
    level = 0
    for start in range(0, len(brackets), _WINDOW_BYTES):
        window = brackets[start : start + _WINDOW_BYTES]
        levels = accumulate(map(_STEPS.__getitem__, window), initial=level)
        if max(levels) > DEPTH_MAX:
            return True
        level += 2 * window.count(b"[") - len(window)
    return False
