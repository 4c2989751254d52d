"""Is a batch's result whole? Input, output and error file against each other, line by line.

What must hold (see the promises in docs/reliability.md):

- each request of the input has exactly one result over both files, with its `custom_id` byte for
  byte, and nothing else has one;
- each line is one whole JSON object that ends in `\\n`, with exactly the keys that it should have,
  and without a character that some reader takes for the end of a line;
- the output file holds successes alone, each a whole answer of its endpoint's shape; the error file
  failures alone, each an answer of another status with an error body, or an error of ours;
- `id`s are unique, and one of ours names the line of its request.

One pass over each file. A request takes about 80 bytes of memory, however long its id: hashes of 64
bits are kept, of which two among ten million are the same with a chance of 10⁻⁶.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Raw

from batchwright.domain.answers import BadAnswer, check_answer
from batchwright.domain.errors import UsageError
from batchwright.domain.lines import Line, LineSplitter
from batchwright.domain.request import parse_request
from batchwright.domain.strict_json import BadJson, members, read

PROBLEMS_MAX: Final = 1_000
LINE_BYTES_MAX: Final = 64 * 2**20

Where = Literal["input", "output", "errors"]

_CHUNK_BYTES = 2**20
_KEYS = ("id", "custom_id", "response", "error")
_OURS = "batchwright"
_RESPONSE_KEYS = ("status_code", "request_id", "body")
_ERROR_KEYS = ("code", "message")
_ERROR_BODY_KEYS = ("message", "type", "param", "code")
_ID_PREFIX = "batch_req_"
_OWN_ID = re.compile(r"batch_req_[0-9a-f]{32}_([1-9][0-9]*)")
_SEPARATORS = ("\u2028".encode(), "\u2029".encode(), "\u0085".encode())


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    where: Where  # the file
    line: int  # in it, from 1
    code: str  # stable, for scripts
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found. The result is whole where there is no problem."""

    requests: int
    successes: int  # lines of the output file
    failures: int  # lines of the error file
    problems: tuple[Problem, ...]  # the first 1,000
    counts: Mapping[str, int]  # of all problems, by code

    @property
    def problem_count(self) -> int:
        return sum(self.counts.values())

    @property
    def is_whole(self) -> bool:
        return not self.counts


def verify_files(source: Path, output: Path, errors: Path | None = None) -> Verification:
    """Check the result files of a batch against its input.

    Raises `UsageError` for a file that cannot be read.
    """
    check = _Check()
    check.read_input(source)
    check.read_results(output, "output")
    if errors is not None:
        check.read_results(errors, "errors")
    check.find_missing(source)
    return check.report()


class _Fault(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Check:
    """The pass over the three files."""

    def __init__(self) -> None:
        self._requests = HashTable()  # custom_id → its line in the input
        self._ids = HashTable()  # of result lines
        self._urls: list[str] = []
        self._url_of = bytearray()  # by request: which of `_urls`
        self._seen = bytearray()  # by request: whether it has a result
        self._counts: dict[Where, int] = {"input": 0, "output": 0, "errors": 0}
        self._problems: list[Problem] = []
        self._by_code: Counter[str] = Counter()

    def report(self) -> Verification:
        counts = self._counts
        return Verification(
            requests=counts["input"],
            successes=counts["output"],
            failures=counts["errors"],
            problems=tuple(self._problems),
            counts=dict(self._by_code),
        )

    def _note(self, where: Where, line: int, code: str, message: str) -> None:
        self._by_code[code] += 1
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(Problem(where, line, code, message))

    # The input

    def read_input(self, path: Path) -> None:
        for line in _input_lines(path):
            self._counts["input"] += 1
            try:
                self._take_request(line)
            except _Fault as fault:
                self._note("input", line.number, fault.code, str(fault))

    def _take_request(self, line: Line) -> None:
        try:
            request = parse_request(line.number, line.content or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _Fault("bad_request", f"no request: {error}") from None
        if not self._requests.add(_hashed(request.custom_id), line.number):
            raise _Fault("duplicate_request", f"a second {_shown(request.custom_id)}")
        if request.url not in self._urls:
            if len(self._urls) > 255:
                raise _Fault("bad_request", "more than 255 different urls")
            self._urls.append(request.url)
        self._url_of.append(self._urls.index(request.url))
        self._seen.append(0)

    def find_missing(self, source: Path) -> None:
        """Name the requests without a result; reads the input again for their ids."""
        if all(self._seen):
            return
        for line in _input_lines(source):
            try:
                custom_id = parse_request(line.number, line.content or b"").custom_id
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            place = self._requests.find(_hashed(custom_id))
            if place is not None and not self._seen[place]:
                self._note("input", line.number, "missing", f"{_shown(custom_id)} has no result")

    # The results

    def read_results(self, path: Path, where: Where) -> None:
        for number, raw in _raw_lines(path):
            self._counts[where] += 1
            try:
                self._take_result(where, number, raw)
            except _Fault as fault:
                self._note(where, number, fault.code, str(fault))

    def _take_result(self, where: Where, number: int, raw: bytes) -> None:
        found = _whole_object(raw)
        custom_id = _text(found, "custom_id")
        place = self._requests.find(_hashed(custom_id))
        if place is None:
            raise _Fault("unknown_custom_id", f"no request has the custom_id {_shown(custom_id)}")
        if self._seen[place]:
            raise _Fault("doubled", f"a second result of {_shown(custom_id)}")
        self._seen[place] = 1
        self._check_id(_text(found, "id"), number, self._requests.value(place))
        _require_keys(found, _KEYS, "the line", optional=(_OURS,))
        if _OURS in found:
            _object(found[_OURS], _OURS)
        if where == "output":
            _check_success(found, self._urls[self._url_of[place]])
        else:
            _check_failure(found)

    def _check_id(self, result_id: str, number: int, line: int) -> None:
        if not result_id.startswith(_ID_PREFIX) or result_id == _ID_PREFIX:
            raise _Fault("bad_id", f"the id {_shown(result_id)} does not begin with {_ID_PREFIX}")
        if not self._ids.add(_hashed(result_id), number):
            raise _Fault("doubled_id", f"a second line with the id {_shown(result_id)}")
        own = _OWN_ID.fullmatch(result_id)
        if own is not None and int(own[1]) != line:
            raise _Fault(
                "swapped",
                f"the id says line {own[1]} of the input, the custom_id is of line {line}",
            )


# One line


def _whole_object(raw: bytes) -> dict[str, Raw]:
    """The members of a result line, where it is whole."""
    if not raw.endswith(b"\n"):
        if len(raw) > LINE_BYTES_MAX:
            raise _Fault("too_long", f"longer than {LINE_BYTES_MAX // 2**20} MiB")
        raise _Fault("torn", "the last line does not end with a line break")
    content = raw[:-1]
    if not content.strip():
        raise _Fault("blank", "a blank line")
    if b"\r" in content:
        raise _Fault("line_break", "a raw carriage return")
    if any(mark in content for mark in _SEPARATORS):
        raise _Fault("line_break", "a raw line separator (U+2028, U+2029 or U+0085)")
    return _members(content, "the line", checks_utf8=True)


def _members(text: bytes, what: str, *, checks_utf8: bool = False) -> dict[str, Raw]:
    try:
        if checks_utf8:
            text.decode()
        found = members(text)
    except UnicodeDecodeError as error:
        raise _Fault("bad_json", f"{what} is not UTF-8: {error.reason}") from None
    except BadJson as error:
        raise _Fault("bad_json", f"{what} is {error.reason}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _Fault("bad_json", f"{what} is not valid JSON: {error}") from None
    if found is None:
        raise _Fault("bad_type", f"{what} is not a JSON object")
    return found


def _check_success(found: Mapping[str, Raw], url: str) -> None:
    if _is_null(found["response"]):
        raise _Fault("not_a_success", "a line of the output file without a response")
    if not _is_null(found["error"]):
        raise _Fault("not_a_success", "a line of the output file with an error")
    status, body = _check_response(found["response"])
    if status // 100 != 2:
        raise _Fault("not_a_success", f"status {status} in the output file")
    try:
        check_answer(url, body)
    except BadAnswer as error:
        raise _Fault("bad_answer", f"no answer of {url}: {error.reason}") from None


def _check_failure(found: Mapping[str, Raw]) -> None:
    has_response, has_error = not _is_null(found["response"]), not _is_null(found["error"])
    if has_response == has_error:
        both = "both" if has_response else "neither"
        raise _Fault("not_a_failure", f"{both} of response and error")
    if has_error:
        ours = _object(found["error"], "error")
        _require_keys(ours, _ERROR_KEYS, "error")
        for name in _ERROR_KEYS:
            _text(ours, name, "error.")
        return
    status, body = _check_response(found["response"])
    if status // 100 == 2:
        raise _Fault("not_a_failure", f"status {status} in the error file")
    _check_error_body(body)


def _check_response(raw: Raw) -> tuple[int, bytes]:
    response = _object(raw, "response")
    _require_keys(response, _RESPONSE_KEYS, "response")
    status = bytes(response["status_code"])
    if not re.fullmatch(rb"[1-5][0-9][0-9]", status):
        shown = _shown(status.decode("utf-8", "replace"))
        raise _Fault("bad_status", f"response.status_code is {shown}, no HTTP status")
    _text(response, "request_id", "response.")
    body = bytes(response["body"])
    _object(response["body"], "response.body")
    return int(status), body


def _check_error_body(body: bytes) -> None:
    try:
        read(body)
    except BadJson as error:
        raise _Fault("bad_json", f"response.body is {error.reason}") from None
    found = _members(body, "response.body")
    if "error" not in found:
        raise _Fault("missing_key", "response.body has no error")
    inner = _object(found["error"], "response.body.error")
    missing = [name for name in _ERROR_BODY_KEYS if name not in inner]
    if missing:
        raise _Fault("missing_key", f"response.body.error has no {missing[0]}")
    _text(inner, "message", "response.body.error.")


def _require_keys(
    found: Mapping[str, Raw],
    keys: tuple[str, ...],
    what: str,
    *,
    optional: tuple[str, ...] = (),
) -> None:
    for name in keys:
        if name not in found:
            raise _Fault("missing_key", f"{what} has no {name}")
    for name in found:
        if name not in keys and name not in optional:
            raise _Fault("unknown_key", f"{what} has the key {_shown(name)}")


def _object(raw: Raw, what: str) -> dict[str, Raw]:
    return _members(bytes(raw), what)


def _text(found: Mapping[str, Raw], name: str, where: str = "") -> str:
    if name not in found:
        raise _Fault("missing_key", f"no {where}{name}")
    try:
        return msgspec.json.decode(found[name], type=str)
    except msgspec.ValidationError:
        raise _Fault("bad_type", f"{where}{name} is not a string") from None


def _is_null(raw: Raw) -> bool:
    return bytes(raw) == b"null"


# Files


def _input_lines(path: Path) -> Iterator[Line]:
    splitter = LineSplitter(line_bytes_max=LINE_BYTES_MAX)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield from splitter.feed(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    yield from splitter.finish()


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their ends; of one that is too long only the beginning."""
    try:
        with path.open("rb") as file:
            lines = iter(partial(file.readline, LINE_BYTES_MAX + 1), b"")
            number = 0
            is_inside = False
            for raw in lines:
                if not is_inside:
                    number += 1
                    yield number, raw
                is_inside = not raw.endswith(b"\n")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {error.strerror or error}")


# Ids


class HashTable:
    """64-bit hashes in the order in which they were added, each with a number below 2³²."""

    __slots__ = ("_hashes", "_mask", "_slots", "_values")

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._values = array("L" if array("L").itemsize == 4 else "I")
        self._slots = array("I", bytes(4 * 1024))  # place + 1 by hash, open addressing
        self._mask = 1023

    def add(self, hashed: int, value: int) -> bool:
        """Add a hash; False where it is there already."""
        slot = self._slot(hashed)
        if self._slots[slot]:
            return False
        self._hashes.append(hashed)
        self._values.append(value)
        self._slots[slot] = len(self._hashes)
        if len(self._hashes) * 2 > len(self._slots):
            self._grow()
        return True

    def find(self, hashed: int) -> int | None:
        """The place of a hash in the order of adding, from 0; None where it is not there."""
        place = self._slots[self._slot(hashed)]
        return place - 1 if place else None

    def value(self, place: int) -> int:
        """The number that was added at a place."""
        return self._values[place]

    def _slot(self, hashed: int) -> int:
        """Where a hash is, or would be."""
        slot = hashed & self._mask
        while (place := self._slots[slot]) and self._hashes[place - 1] != hashed:
            slot = (slot + 1) & self._mask
        return slot

    def _grow(self) -> None:
        self._slots = array("I", bytes(4 * len(self._slots) * 2))
        self._mask = len(self._slots) - 1
        for place, hashed in enumerate(self._hashes, start=1):
            self._slots[self._slot(hashed)] = place


def _hashed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _shown(text: str) -> str:
    """A text as it may stand in a message: short, with its control characters escaped."""
    return repr(text if len(text) <= 64 else f"{text[:64]}…")
