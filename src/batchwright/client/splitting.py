"""Cut an input file into parts that a batch API takes.

A part is a range of bytes of the file that ends at a line end: nothing is copied.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchwright.client.items import EMBEDDINGS, plain_endpoint
from batchwright.domain.errors import UsageError

# Limits of OpenAI's Batch API (guide "Batch API", section on rate limits).
REQUESTS_PER_BATCH = 50_000
BYTES_PER_BATCH = 200_000_000


@dataclass(frozen=True, slots=True)
class Numbered:
    """Ids that we made: `request-07` to `request-12`, each on its line, in this order."""

    first: int
    last: int
    width: int  # digits

    def __str__(self) -> str:
        return f"{self.first:0{self.width}d}-{self.last:0{self.width}d}"

    @property
    def ids(self) -> list[str]:
        return [f"request-{number:0{self.width}d}" for number in range(self.first, self.last + 1)]

    @classmethod
    def parse(cls, text: object) -> Numbered | None:
        """What `str` gave; None for anything else."""
        found = _NUMBERED.fullmatch(text) if isinstance(text, str) else None
        if found is None or len(found[1]) != len(found[2]):
            return None
        return cls(int(found[1]), int(found[2]), len(found[1]))


_NUMBERED = re.compile(r"([0-9]{1,12})-([0-9]{1,12})")
_FIRST_ID = re.compile(rb'\{"custom_id":"request-(0*1)"')


@dataclass(frozen=True, slots=True)
class Part:
    """A range of an input file that becomes one batch."""

    start: int  # offset of its first byte
    size_bytes: int
    first_line: int  # 1-based line of the file at which it starts
    requests: int
    numbered: Numbered | None = None  # None: it has ids of another making


@dataclass(frozen=True, slots=True)
class Plan:
    """How an input file is submitted."""

    endpoint: str  # the `url` of its first line
    parts: tuple[Part, ...]

    @property
    def requests(self) -> int:
        return sum(part.requests for part in self.parts)

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)


def plan_file(
    path: Path | str,
    *,
    requests_max: int = REQUESTS_PER_BATCH,
    size_bytes_max: int = BYTES_PER_BATCH,
) -> Plan:
    """Read the file once and say how it is cut.

    Embedding inputs are counted as the API counts them: each input of a list is one.
    A single line over the limit is a part of its own; the server says what is wrong with it.
    Raises `UsageError` if the file is empty or its first line is not a batch request.
    """
    source = Path(path)
    if not source.is_file():
        what = "a folder" if source.is_dir() else "not there"
        raise UsageError(f"expected a file of batch requests (JSONL), and {source} is {what}")
    endpoint = _endpoint(source)
    weigh = _embedding_inputs if plain_endpoint(endpoint) == EMBEDDINGS else _one
    parts = tuple(_cut(source, weigh, requests_max, size_bytes_max))
    return Plan(endpoint, parts)


def _cut(
    source: Path, weigh: Callable[[bytes], int], requests_max: int, size_bytes_max: int
) -> Iterator[Part]:
    start = size = weight = requests = 0
    first_line = 1
    numbers = _Numbers()
    with source.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            counted = weigh(line) if not line.isspace() else 0
            if requests and (weight + counted > requests_max or size + len(line) > size_bytes_max):
                yield Part(start, size, first_line, requests, numbers.take(requests))
                start, size, weight, requests, first_line = start + size, 0, 0, 0, number
            size += len(line)
            weight += counted
            requests += counted > 0
            if counted:
                numbers.look(line)
    if requests:
        yield Part(start, size, first_line, requests, numbers.take(requests))


class _Numbers:
    """Whether the requests have the ids that `create_batch_file` gives, from the first on."""

    def __init__(self) -> None:
        self._count = 0
        self._width = 0  # 0: they have others

    def look(self, line: bytes) -> None:
        """Note the next request."""
        self._count += 1
        if self._count == 1:
            first = _FIRST_ID.match(line)
            self._width = len(first[1]) if first else 0
        elif self._width:
            expected = b'{"custom_id":"request-%0*d"' % (self._width, self._count)
            self._width *= line.startswith(expected)

    def take(self, requests: int) -> Numbered | None:
        """The ids of the last `requests` of them."""
        if not self._width:
            return None
        return Numbered(self._count - requests + 1, self._count, self._width)


def _one(_line: bytes) -> int:
    return 1


def _embedding_inputs(line: bytes) -> int:
    try:
        given = json.loads(line)["body"]["input"]
    except (ValueError, KeyError, TypeError):
        return 1
    is_list = isinstance(given, list) and given and not isinstance(given[0], int)
    return len(given) if is_list else 1


def _endpoint(source: Path) -> str:
    url = _first_request(source).get("url")
    if not isinstance(url, str) or not url:
        raise UsageError(
            f'{source}: the first line has no "url"; a line looks like '
            '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {…}}'
        )
    return url


def _first_request(source: Path) -> dict[str, Any]:
    with source.open("rb") as lines:
        first = next((line for line in lines if not line.isspace()), None)
    if first is None:
        raise UsageError(f"{source} contains no request")
    try:
        request = json.loads(first.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise UsageError(f"{source}: the first line is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise UsageError(f"{source}: the first line is not a JSON object")
    return request
