"""Bad input at scale, over HTTP: a clear error, nothing sent, and a server whose memory stays flat.

Run alone for full size:
`PYTHONPATH=src:tests/support python tests/acceptance/test_resources.py`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import pytest
from openai import OpenAI
from openai.types import Batch, BatchError

from sandbox_process import SandboxProcess
from server_process import ServerProcess

CHAT: Final = "/v1/chat/completions"
MIB = 2**20
GROWTH_MIB_MAX = 64
BLOCK_BYTES = MIB
ERRORS_MAX = 1_000
WARM_UP = 2_000

LINES = 50_000
BAD_LINES = 3_000
EVERY = 50
BAD = {  # by their place among fifty lines
    10: b'{"custom_id":"cut off","method":"POST","url":"/v1/ch\n',
    25: b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt"}}\n',
    40: b'{"method":"POST","url":"/v1/chat/completions","body":{"model":"gpt"}}\n',
}
LONG_LINE_BYTES = 300 * MIB
SAME_IDS = 200_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A batch that failed validation, and what that cost."""

    batch: Batch
    growth_mib: float
    calls: int  # that reached the provider for it
    took_s: float


class Site:
    """A server that allows files of any size, and its provider with a ledger."""

    def __init__(self, server: ServerProcess, sandbox: SandboxProcess) -> None:
        self._server = server
        self._sandbox = sandbox
        # What a server needs once, it has had: growth is counted from here.
        batch = self._ended(self._upload(good_lines(WARM_UP)))
        assert batch.status == "completed", batch
        while self._calls() < WARM_UP:
            time.sleep(0.02)

    def refuse(self, content: Iterator[bytes]) -> Refusal:
        """Upload `content`, run it as a batch, and see it fail."""
        before = self._calls()
        started_at = time.monotonic()
        with Memory(self._server.pid) as memory:
            batch = self._ended(self._upload(content))
        return Refusal(
            batch=batch,
            growth_mib=memory.growth_mib,
            calls=self._calls() - before,
            took_s=time.monotonic() - started_at,
        )

    def _calls(self) -> int:
        return self._sandbox.ledger_path.read_bytes().count(b"\n")

    def _upload(self, content: Iterator[bytes]) -> str:
        """Streamed in chunks, so that neither side has to hold it; the id of the file."""
        parts = urlsplit(self._server.base_url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=300)
        headers = {
            "Authorization": f"Bearer {self._server.key}",
            "Content-Type": "multipart/form-data; boundary=edge",
        }
        connection.request("POST", "/v1/files", _form(content), headers, encode_chunked=True)
        with connection.getresponse() as answer:
            body = json.loads(answer.read())
            assert answer.status == 200, body
        connection.close()
        return str(body["id"])

    def _ended(self, file_id: str) -> Batch:
        with OpenAI(base_url=self._server.base_url, api_key=self._server.key) as client:
            batch = client.batches.create(
                input_file_id=file_id, endpoint=CHAT, completion_window="24h"
            )
            while batch.status not in ("completed", "failed", "expired", "cancelled"):
                time.sleep(0.05)
                batch = client.batches.retrieve(batch.id)
        return batch


class Memory:
    """Watches the anonymous memory of a process; `growth_mib` is from the start to the peak."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._start = self._peak = self._now_mib()

    @property
    def growth_mib(self) -> float:
        return self._peak - self._start

    def _now_mib(self) -> float:
        for line in self._status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no RssAnon: not a Linux process")

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self._peak = max(self._peak, self._now_mib())

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._watcher.join()


@contextmanager
def opened_site(folder: Path) -> Iterator[Site]:
    """Both processes, until the end."""
    with SandboxProcess() as sandbox:
        config = (
            "[limits]\nfile_mb = 4096\nrequests_per_batch = 0\nrequests_per_s = 0\n"
            f'[providers.upstream]\nbase_url = "{sandbox.base_url}"\nmodels = ["gpt*"]\n'
        )
        with ServerProcess(folder / "data", config=config) as server:
            yield Site(server, sandbox)
            assert server.stop() == 0, server.log


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with opened_site(tmp_path_factory.mktemp("resources")) as made:
        yield made


def test_of_50_000_lines_with_3_000_bad_ones_1_000_are_told_and_all_counted(site: Site) -> None:
    refusal = site.refuse(lines_with_bad_ones(LINES))

    assert_refused(refusal)
    *told, summary = errors_of(refusal.batch)
    bad = [n for n in range(1, LINES + 1) if n % EVERY in BAD]
    assert len(bad) == BAD_LINES
    assert [error.line for error in told] == bad[:ERRORS_MAX]
    assert [(error.code, error.param) for error in told[:3]] == [
        ("invalid_json_line", None),
        ("missing_required_parameter", "body.messages"),
        ("missing_required_parameter", "custom_id"),
    ]
    assert summary.line is None
    assert summary.message == "3,000 lines are wrong. The first 1,000 are listed."


def test_a_line_of_300_mb_is_refused_by_its_number(site: Site) -> None:
    refusal = site.refuse(one_long_line(LONG_LINE_BYTES))

    assert_refused(refusal)
    [error] = errors_of(refusal.batch)
    assert (error.code, error.line) == ("line_too_long", 2)
    assert error.message == "This line is longer than 16,777,216 bytes."


def test_200_000_lines_of_one_custom_id_are_refused(site: Site) -> None:
    refusal = site.refuse(same_ids(SAME_IDS))

    assert_refused(refusal)
    *told, summary = errors_of(refusal.batch)
    assert [error.line for error in told] == [*range(2, ERRORS_MAX + 2)]
    assert {(error.code, error.param) for error in told} == {("duplicate_custom_id", "custom_id")}
    assert summary.message == "199,999 lines are wrong. The first 1,000 are listed."


def errors_of(batch: Batch) -> list[BatchError]:
    assert batch.errors is not None
    assert batch.errors.data is not None
    return batch.errors.data


def assert_refused(refusal: Refusal) -> None:
    batch = refusal.batch
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 0)
    assert refusal.calls == 0
    assert refusal.growth_mib <= GROWTH_MIB_MAX


# Input


def good_lines(count: int) -> Iterator[bytes]:
    """Chat requests."""
    return (_line(b"r-%d" % number, _body(number)) for number in range(1, count + 1))


def lines_with_bad_ones(count: int) -> Iterator[bytes]:
    """The same with three lines of each fifty in the place of good ones."""
    for number, line in enumerate(good_lines(count), 1):
        yield BAD.get(number % EVERY, line)


def one_long_line(size_bytes: int) -> Iterator[bytes]:
    """A good line, then one that goes on and on, then a good line."""
    yield _line(b"first", _body(1))
    yield b'{"custom_id":"long","method":"POST","url":"/v1/chat/completions","body":{"model":"'
    block = b"x" * BLOCK_BYTES
    for _ in range(size_bytes // BLOCK_BYTES):
        yield block
    yield b'"}}\n'
    yield _line(b"last", _body(2))


def same_ids(count: int) -> Iterator[bytes]:
    return (_line(b"same", _body(number)) for number in range(count))


def _body(number: int) -> bytes:
    return b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"no. %d"}]}' % number


def _line(custom_id: bytes, body: bytes) -> bytes:
    return b'{"custom_id":"%b","method":"POST","url":"/v1/chat/completions","body":%b}\n' % (
        custom_id,
        body,
    )


def _form(content: Iterator[bytes]) -> Iterator[bytes]:
    """An upload form around `content`, in blocks of about 1 MiB."""
    yield (
        b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--edge\r\n'
        b'Content-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    )
    gathered: list[bytes] = []
    size = 0
    for piece in content:
        gathered.append(piece)
        size += len(piece)
        if size >= BLOCK_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered) + b"\r\n--edge--\r\n"


def main() -> None:
    """Print what the full sizes cost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--line-mib", type=int, default=1024)
    parser.add_argument("--same-ids", type=int, default=1_000_000)
    options = parser.parse_args()
    inputs = {
        f"{LINES:,} lines, {BAD_LINES:,} bad": lines_with_bad_ones(LINES),
        f"a line of {options.line_mib:,} MiB": one_long_line(options.line_mib * MIB),
        f"{options.same_ids:,} identical ids": same_ids(options.same_ids),
    }
    with tempfile.TemporaryDirectory() as folder, opened_site(Path(folder)) as site:
        for name, content in inputs.items():
            refusal = site.refuse(content)
            errors = errors_of(refusal.batch)
            print(f"{name}: {refusal.batch.status} in {refusal.took_s:.1f} s")
            print(f"    memory +{refusal.growth_mib:.1f} MiB, {refusal.calls} calls")
            print(f"    {len(errors):,} errors, the last: {errors[-1].message}")


if __name__ == "__main__":
    main()
