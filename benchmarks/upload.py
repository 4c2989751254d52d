"""Upload and validation of a large file, against a handler that only stores what it is sent.

    python benchmarks/upload.py [--mb 200] [--rounds 3]

Two kinds of lines: 4 kB in one message, and 25 messages with tools. The server has one core, the
client the other. The bare handler is an ASGI application under the same uvicorn that streams
the body into a file and syncs it. Ours: the upload of the file, then the batch until it is no
longer `validating`. Both have taken a small file before, so that neither is cold.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import Any
from urllib.parse import urlsplit

import measure
from validation import ORDINARY, file_of

KINDS = ("4 kB in one message", "25 messages, 12 tools")
BOUNDARY = "batchwright-benchmark"
PIECE_BYTES = 2**20
POLL_S = 0.02
SETTINGS = """\
[providers.absent]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
models = ["gpt-5-mini"]
max_concurrency = 1
[limits]
requests_per_batch = 1000000
requests_per_s = 0
"""
TARGETS = dict(zip(KINDS, (3.0, 5.0), strict=True))
WARM_UP_BYTES = 4 * 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="50 MB, one round")
    parser.add_argument("--mb", type=int, help="else 200")
    parser.add_argument("--rounds", type=int, help="else 3")
    arguments = parser.parse_args()
    size_mb = arguments.mb or (50 if arguments.quick else 200)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    measure.show_machine()
    os.sched_setaffinity(0, {measure.SANDBOX_CPU})  # the client
    rows = []
    with measure.scratch() as folder:
        for kind in KINDS:
            source = folder / "input.jsonl"
            source.write_bytes(b"".join(file_of(ORDINARY[kind], size_mb * 10**6)))
            rows.append((kind, *compare(kind, source, folder, rounds)))
    measure.show_table(
        f"Upload and validation of {size_mb} MB",
        ("lines", "bare handler, s", "upload, s", "validation, s", "ratio", "wanted", ""),
        rows,
    )


def compare(kind: str, source: Path, folder: Path, rounds: int) -> tuple[str, ...]:
    times_s: list[tuple[float, float, float]] = []
    small = folder / "warm-up.jsonl"
    small.write_bytes(b"".join(file_of(ORDINARY[kind], WARM_UP_BYTES)))
    for number in range(rounds):
        with bare_server(folder) as url:
            send(url, "/", small)
            started = perf_counter()
            send(url, "/", source)
            bare_s = perf_counter() - started
        own_folder = folder / f"round-{source.stat().st_mtime_ns}-{number}"
        own_folder.mkdir()
        with own_server(own_folder) as server:
            server.validate(server.upload(small))
            started = perf_counter()
            file_id = server.upload(source)
            upload_s = perf_counter() - started
            server.validate(file_id)
            times_s.append((bare_s, upload_s, perf_counter() - started - upload_s))
    bare, upload, validation = zip(*times_s, strict=True)
    ratios = [(upload_s + check_s) / bare_s for bare_s, upload_s, check_s in times_s]
    cells = measure.at_most(ratios, TARGETS[kind])
    columns = (bare, upload, validation, ratios)
    return *(measure.spread(column, 2) for column in columns), *cells


class OwnServer:
    """A client of `batchwright serve`, of few words."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url = base_url
        self.key = key
        self._headers = {"authorization": f"Bearer {key}"}

    def upload(self, source: Path) -> str:
        path = urlsplit(self.base_url).path + "/files"
        return str(send(self.base_url, path, source, self._headers)["id"])

    def validate(self, file_id: str) -> None:
        """Create a batch and wait until it is no longer `validating`."""
        wanted = {
            "input_file_id": file_id,
            "endpoint": measure.ENDPOINT,
            "completion_window": "24h",
        }
        batch = self.ask("POST", "/batches", wanted)
        while batch["status"] == "validating":
            sleep(POLL_S)
            batch = self.ask("GET", f"/batches/{batch['id']}")
        if batch["status"] == "failed":
            raise SystemExit(f"the file was refused: {batch['errors']}")

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        address = urlsplit(self.base_url)
        connection = http.client.HTTPConnection(address.netloc, timeout=120)
        data = None if body is None else json.dumps(body)
        headers = {**self._headers, "content-type": "application/json"}
        connection.request(method, address.path + path, data, headers)
        return _answer_of(connection)


@contextmanager
def own_server(folder: Path) -> Iterator[OwnServer]:
    """`batchwright serve` on its core, whose one provider does not answer: nothing but validation
    takes time."""
    config = folder / "config.toml"
    config.write_text(SETTINGS)
    with measure.serving(folder, config) as (base_url, key, pid):
        pin(pid)
        yield OwnServer(base_url, key)


@contextmanager
def bare_server(folder: Path) -> Iterator[str]:
    """The handler that only stores, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("bare_handler.py")), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            pin(process.pid)
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def pin(pid: int) -> None:
    """Every thread that a process has, and those that they start, to the core of the server."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {measure.ENGINE_CPU})


def send(
    base_url: str, path: str, source: Path, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    """POST a file as the form that the Files API takes, in pieces."""
    head, tail = _form(source.name)
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=120)
    connection.putrequest("POST", path)
    connection.putheader("content-type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("content-length", str(len(head) + source.stat().st_size + len(tail)))
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.endheaders(head)
    with source.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            connection.send(piece)
    connection.send(tail)
    return _answer_of(connection)


def _form(filename: str) -> tuple[bytes, bytes]:
    disposition = "Content-Disposition: form-data; name="
    head = (
        f'--{BOUNDARY}\r\n{disposition}"purpose"\r\n\r\nbatch\r\n--{BOUNDARY}\r\n'
        f'{disposition}"file"; filename="{filename}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode(), f"\r\n--{BOUNDARY}--\r\n".encode()


def _answer_of(connection: http.client.HTTPConnection) -> dict[str, Any]:
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status >= 400:
        raise SystemExit(f"HTTP {answer.status}: {text.decode()}")
    found: dict[str, Any] = json.loads(text)
    return found


if __name__ == "__main__":
    main()
