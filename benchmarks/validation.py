"""How fast input files are validated, against parsing each line with msgspec and with jiter.

    python benchmarks/validation.py [--mb 8]

The first table: ordinary files, in MB/s of one core. The second: hostile ones, with the time
taken, the memory that it took at its peak, and the longest that another thread waited for the
interpreter meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import jiter
import msgspec

from batchwright.engine.validate import ValidationReport, ValidationRules, Validator

CHUNK_BYTES = 2**20
CHAT = ValidationRules("/v1/chat/completions", requests_max=None)
TRACED_CHUNKS = 24  # enough for the largest line; memory does not grow with more
PROSE = 'The quick brown fox jumps over the lazy dog and says "hello" to 42 people.\n'


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--mb", type=int, default=8, help="size of each ordinary file")
    size_bytes = arguments.parse_args().mb * 10**6
    print(f"{'file':36}{'validate':>10}{'msgspec':>10}{'jiter':>10}   MB/s, medians of 3")
    for name, body in ORDINARY.items():
        print(f"{name:36}" + "".join(f"{rate:10.0f}" for rate in rates(body, size_bytes)))
    print(f"\n{'hostile file':36}{'MB':>8}{'s':>8}{'peak MB':>9}{'wait ms':>9}{'errors':>8}")
    for name, chunks in HOSTILE.items():
        print(f"{name:36}" + hostile_row(chunks))


def rates(body: dict[str, object], size_bytes: int) -> list[float]:
    """MB/s of the validator, of `msgspec.json.decode` and of `jiter.from_json`."""
    lines = list(file_of(body, size_bytes))
    data = b"".join(lines)
    ways: list[Callable[[], object]] = [
        lambda: validate(data),
        lambda: [msgspec.json.decode(line) and None for line in lines],
        lambda: [jiter.from_json(line, allow_inf_nan=False) and None for line in lines],
    ]
    times_s: list[list[float]] = [[], [], []]
    for _ in range(3):
        for way, taken_s in zip(ways, times_s, strict=True):
            started = time.perf_counter()
            way()
            taken_s.append(time.perf_counter() - started)
    return [len(data) / statistics.median(taken_s) / 10**6 for taken_s in times_s]


def hostile_row(chunks: Callable[[], Iterator[bytes]]) -> str:
    made = list(chunks())
    size_bytes = sum(map(len, made))
    started = time.perf_counter()
    with LongestWait() as wait:
        report = validate_chunks(iter(made))
    taken_s = time.perf_counter() - started
    tracemalloc.start()
    validate_chunks(iter(made[:TRACED_CHUNKS]))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    figures = f"{size_bytes / 1e6:8.0f}{taken_s:8.2f}{peak_bytes / 1e6:9.1f}{wait.longest_ms:9.1f}"
    return f"{figures}{len(report.errors):8}"


def validate(data: bytes) -> ValidationReport:
    return validate_chunks(
        data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)
    )


def validate_chunks(chunks: Iterator[bytes]) -> ValidationReport:
    validator = Validator(CHAT, lambda model, endpoint: None)
    for chunk in chunks:
        validator.feed(chunk)
    return validator.finish()


class LongestWait:
    """Measures how long a second thread that wakes each millisecond is kept waiting."""

    def __enter__(self) -> LongestWait:
        self.longest_ms = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            started = time.perf_counter()
            if self._done.wait(0.001):
                return
            self.longest_ms = max(self.longest_ms, (time.perf_counter() - started) * 1e3 - 1)


def line_of(body: dict[str, object], number: int, *, ascii_only: bool = True) -> bytes:
    line = {
        "custom_id": f"request-{number:07}",
        "method": "POST",
        "url": CHAT.endpoint,
        "body": body,
    }
    return json.dumps(line, ensure_ascii=ascii_only).encode() + b"\n"


def file_of(body: dict[str, object], size_bytes: int) -> Iterator[bytes]:
    """Lines with `body`, of about `size_bytes` in all; raw UTF-8 where it is not ASCII."""
    count = size_bytes // len(line_of(body, 0, ascii_only=False)) + 1
    return (line_of(body, number, ascii_only=False) for number in range(count))


def chat(*contents: str, **parameters: object) -> dict[str, object]:
    messages = [{"role": "user", "content": content} for content in contents]
    return {"model": "gpt-5-mini", "messages": messages, **parameters}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": f"look_up_{number}",
            "description": "Looks a thing up by its name.",
            "parameters": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "what to look up"},
                    "limit": {"type": "number", "enum": [1, 2.5, 10]},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["name"],
            },
        },
    }
    for number in range(12)
]
ORDINARY: dict[str, dict[str, object]] = {
    "4 kB in one message": chat((PROSE * 60)[:4000]),
    "4 kB of other scripts": chat("Größe und Maß, 日本語の文章 in einem Satz. " * 80),
    "25 messages": chat(*[PROSE * 2] * 25),
    "25 messages, 12 tools": chat(*[PROSE] * 25, tools=TOOLS, temperature=0.2),
    "8 parameters": chat(PROSE, n=1, seed=7, stop=["\n"], top_p=0.9, user="a", temperature=0),
    "150 bytes": chat(PROSE),
    "4 kB with many hex ids": chat("3f2504e0-4f89-11d3-9a0c-0305e82c3301 0e123 " * 95),
}


def repeated(part: bytes, size_mb: int, before: bytes = b"", after: bytes = b"") -> Iterator[bytes]:
    chunk = part * (CHUNK_BYTES // len(part))
    yield before + chunk
    for _ in range(size_mb - 1):
        yield chunk
    yield after


def in_body(part: bytes, last: bytes, size_mb: int = 15) -> Callable[[], Iterator[bytes]]:
    """One line of `size_mb` whose body has a list of `part`, repeated."""
    head, tail = line_of(chat("", x=["X"]), 0).split(b'"X"')
    return lambda: repeated(part, size_mb, head, last + tail)


def numbered(count: int, *, identical: bool) -> Callable[[], Iterator[bytes]]:
    def chunks() -> Iterator[bytes]:
        for start in range(0, count, 8_192):
            numbers = range(start, min(start + 8_192, count))
            yield b"".join(line_of(chat("Hi"), 0 if identical else n) for n in numbers)

    return chunks


HOSTILE: dict[str, Callable[[], Iterator[bytes]]] = {
    "one line of 200 MB": lambda: repeated(b"x", 200),
    "4,000,000 empty lines": lambda: repeated(b"\n", 4),
    "100,000 identical ids": numbered(100_000, identical=True),
    "100,000 ids": numbered(100_000, identical=False),
    "15 MB of base64 in a line": lambda: repeated(
        b"ABCD", 15, *line_of(chat("X" * 3), 0).split(b"XXX")
    ),
    "15 MB of [] in a line": in_body(b"[],", b"0"),
    "4 MB of {} 90 deep in a line": in_body(b'{"a":' * 90 + b"0" + b"}" * 90 + b",", b"0", 4),
    "15 MB of small numbers": in_body(b"1.5,", b"1e0"),
    "15 MB of strings like numbers": in_body(b'"0e000",', b"0"),
    "15 MB of backslashes": in_body(b'"\\\\\\"[",', b"0"),
    "15 MB of emoji": lambda: repeated("😀".encode(), 15, *line_of(chat("X" * 3), 0).split(b"XXX")),
    "2,000,000 keys in a body": in_body(b'0],"k":[', b"0"),
}


if __name__ == "__main__":
    main()
