"""How the real server stops, shares its data directory, and forgets an upload that broke off."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from openai import OpenAI
from openai.types import Batch

from sandbox_process import SandboxProcess
from server_process import ServerProcess

SOURCE = Path(__file__).resolve().parents[2] / "src"
TERMINAL = ("completed", "failed", "expired", "cancelled")
CHAT: Final = "/v1/chat/completions"
CONCURRENCY = 20
REQUESTS = 120
UPLOADED_BYTES = 4_000_000
WAIT_S = 60.0


@pytest.fixture
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess() as running:
        yield running


def test_a_stop_keeps_what_comes_back_sends_nothing_more_and_the_next_start_goes_on(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    # The first requests fill the lane and wait for the test; the others wait for them.
    models = ["sandbox/hold"] * CONCURRENCY + ["gpt-4o-mini"] * (REQUESTS - CONCURRENCY)
    with ServerProcess(tmp_path / "data", config=config(sandbox)) as server:
        with client_of(server) as client:
            batch_id = submit(client, models)
            until(lambda: sandbox.held() == CONCURRENCY)

            os.kill(server.pid, signal.SIGTERM)
            until(lambda: readiness(server) != 200)
            sandbox.release()
            code = server.stop()
        stopped_at = time.time()

        server.start()
        with client_of(server) as client:
            batch = ended(client, batch_id)
            ids = result_ids(client, batch)
            idle_code = server.stop()  # with a connection that is still open
    sandbox.stop()

    assert (code, idle_code) == (0, 0)
    assert sum(call["time"] <= stopped_at for call in sandbox.ledger()) == CONCURRENCY
    assert batch.status == "completed"
    assert ids == sorted(f"r-{number}" for number in range(REQUESTS))
    assert set(sandbox.calls_by_body().values()) == {1}
    assert sandbox.calls_by_body().total() == REQUESTS
    assert possibly_paid_twice(batch) == []
    assert "Traceback" not in server.log


def test_what_outlasts_the_grace_is_given_up_and_calls_are_listed_and_made_again(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    models = ["sandbox/once-hold"] * 5 + ["gpt-4o-mini"] * 5
    short = config(sandbox) + "[limits]\ngrace_s = 0.2\n"
    with ServerProcess(tmp_path / "data", config=short) as server:
        with client_of(server) as client:
            batch_id = submit(client, models)
            until(lambda: sandbox.held() == 5 and completed(client, batch_id) == 5)
            with stalled_upload(server):
                code = server.stop()
        left_bytes = bytes_under(server.data_dir / "blobs")

        server.start()
        with client_of(server) as client:
            batch = ended(client, batch_id)
            ids = result_ids(client, batch)
    sandbox.stop()

    assert code == 0
    assert left_bytes < UPLOADED_BYTES  # nothing of the upload
    assert batch.status == "completed"
    assert ids == sorted(f"r-{number}" for number in range(10))
    assert sorted(sandbox.calls_by_body().values()) == [1] * 5 + [2] * 5
    assert possibly_paid_twice(batch) == [1, 2, 3, 4, 5]


def test_a_stop_does_not_take_the_interpreter_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thread of pyreqwest that comes back to one that is going down aborts the process, at random;
    # here whatever reaches that point does.
    (tmp_path / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.abort)\n")
    found = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, found)))
    taken_down = subprocess.run([sys.executable, "-c", ""], check=False)

    with ServerProcess(tmp_path / "data") as server:
        code = server.stop()

    assert taken_down.returncode == -signal.SIGABRT
    assert code == 0


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("idle") / "data") as server:
        yield server


def test_a_second_server_names_the_one_that_holds_the_data_directory_and_leaves(
    idle: ServerProcess,
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BATCHWRIGHT_")}
    second = subprocess.run(
        [*(sys.executable, "-m", "batchwright", "serve", "--port", "0"), "--data-dir", "data"],
        cwd=idle.data_dir.parent,
        env={**environment, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )

    assert second.returncode != 0
    assert f"{idle.data_dir} is in use by process {idle.pid} on " in second.stderr
    assert len(second.stderr.splitlines()) <= 2  # what is wrong, and a hint
    assert readiness(idle) == 200


def test_an_upload_that_breaks_off_leaves_nothing_visible_and_no_bytes(
    idle: ServerProcess,
) -> None:
    before = bytes_under(idle.data_dir / "blobs")

    with stalled_upload(idle):
        pass

    until(lambda: bytes_under(idle.data_dir / "blobs") == before)
    with client_of(idle) as client:
        assert client.files.list().data == []
    assert readiness(idle) == 200


# Parts


def config(sandbox: SandboxProcess) -> str:
    return (
        f'[providers.upstream]\nkind = "openai"\nbase_url = "{sandbox.base_url}"\n'
        f'models = ["gpt-*", "sandbox/*"]\nmax_concurrency = {CONCURRENCY}\n'
    )


def client_of(server: ServerProcess) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key=server.key)


def submit(client: OpenAI, models: list[str]) -> str:
    """Start a batch with a request for each model."""
    lines = []
    for number, model in enumerate(models):
        body = {"model": model, "messages": [{"role": "user", "content": f"no. {number}"}]}
        line = {"custom_id": f"r-{number}", "method": "POST", "url": CHAT, "body": body}
        lines.append(json.dumps(line) + "\n")
    file = client.files.create(file=("in.jsonl", "".join(lines).encode()), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id


def ended(client: OpenAI, batch_id: str) -> Batch:
    until(lambda: client.batches.retrieve(batch_id).status in TERMINAL)
    return client.batches.retrieve(batch_id)


def completed(client: OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return counts.completed if counts else 0


def result_ids(client: OpenAI, batch: Batch) -> list[str]:
    """The ids of all output lines, sorted."""
    assert batch.output_file_id is not None
    text = client.files.content(batch.output_file_id).text
    return sorted(json.loads(line)["custom_id"] for line in text.splitlines())


def possibly_paid_twice(batch: Batch) -> list[int]:
    lines: list[int] = batch.to_dict()["batchwright"]["possibly_paid_twice"]["lines"]  # type: ignore[index]
    return sorted(lines)


def until(is_so: Callable[[], bool]) -> None:
    """Wait for a signal that can only be asked for."""
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def readiness(server: ServerProcess) -> int | None:
    """The status of `/readyz`; None where nobody listens any more."""
    try:
        with urllib.request.urlopen(
            server.base_url.removesuffix("/v1") + "/readyz", timeout=5
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return None


@contextmanager
def stalled_upload(server: ServerProcess) -> Iterator[None]:
    """An upload of which half has come and is on the disk; the connection closes on leaving."""
    blobs = server.data_dir / "blobs"
    before = bytes_under(blobs)
    with socket.create_connection(address(server)) as connection:
        connection.sendall(upload_head(server, length=2 * UPLOADED_BYTES))
        connection.sendall(b'{"custom_id":"' + b"x" * UPLOADED_BYTES)
        until(lambda: bytes_under(blobs) > before + UPLOADED_BYTES // 2)
        yield


def address(server: ServerProcess) -> tuple[str, int]:
    parts = urlsplit(server.base_url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def upload_head(server: ServerProcess, *, length: int) -> bytes:
    """The start of an upload, up to where the content of the file begins."""
    form = (
        '--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        '--edge\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    )
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {server.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=edge\r\n"
        f"Content-Length: {length}\r\n\r\n{form}"
    ).encode()


def bytes_under(folder: Path) -> int:
    """The size of all files; those that go while it looks count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
