"""`batchwright run` stopped and killed in the middle, with the provider's own ledger as witness."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import IO

import pytest

from batchwright.checker import verify_files
from sandbox_process import SandboxProcess

REQUESTS = 400
CONCURRENCY = 100
SLOTS = CONCURRENCY + 256
CALLS_WITHIN_S = 30.0
CHAT = "/v1/chat/completions"


class RunProcess:
    """The real command in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        source = str(Path(__file__).resolve().parents[2] / "src")
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batchwright", "run", "in.jsonl", "-o", "out.jsonl", *options],
            cwd=folder,
            env={**environment, "PYTHONPATH": source},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    def wait_until_it_says(self, text: str) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if text in line:
                return
        raise AssertionError(f"it never said {text!r}")

    def said(self) -> str:
        """All that it said, once it is made to end."""
        self._process.kill()
        return self.end()[1]

    def end(self) -> tuple[int, str]:
        """The exit code, and what it said."""
        out, err = self._process.communicate(timeout=30)
        return self._process.returncode, out + err


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxProcess]:
    with SandboxProcess("--latency", "200ms", ledger_path=tmp_path / "ledger.jsonl") as process:
        (tmp_path / "batchwright.toml").write_text(
            f"[limits]\nreserve_mb = 0\n"
            f'[providers.upstream]\nbase_url = "{process.base_url}"\nmodels = ["m", "sandbox/*"]\n'
            f"max_concurrency = {CONCURRENCY}\n"
        )
        yield process


def write_requests(
    folder: Path, *, model: str = "m", count: int = REQUESTS, distinct: int | None = None
) -> None:
    """`distinct` of them differ; the others repeat those, in turn."""
    with (folder / "in.jsonl").open("w") as file:
        for number in range(count):
            text = f"no. {number % (distinct or count)}"
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            line = {"custom_id": f"r-{number}", "method": "POST", "url": CHAT, "body": body}
            file.write(json.dumps(line) + "\n")


def wait_for_calls(run: RunProcess, ledger: Path, count: int) -> None:
    """Read the ledger as it grows, until so many calls of a run have reached the provider."""
    seen = 0
    give_up_at = time.monotonic() + CALLS_WITHIN_S
    with _opened(ledger) as file:
        while seen < count:
            has_ended = run.has_ended  # asked before the last look
            chunk = file.read(1 << 16)
            seen += chunk.count(b"\n")
            if chunk:
                continue
            if has_ended or time.monotonic() > give_up_at:
                ended = "it has ended" if has_ended else f"in {CALLS_WITHIN_S} s"
                raise AssertionError(f"{seen} of {count} calls came, {ended}: {run.said()}")
            time.sleep(0.005)  # two cores: leave them to those that we wait for


def _opened(path: Path) -> IO[bytes]:
    path.touch()
    return path.open("rb")


def test_stopped_gracefully_and_resumed_nothing_is_lost_and_nothing_asked_twice(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    write_requests(tmp_path)

    first = RunProcess(tmp_path)
    wait_for_calls(first, sandbox.ledger_path, REQUESTS // 3)
    first.send(signal.SIGINT)
    code, said = first.end()
    is_written = (tmp_path / "out.jsonl").exists()
    resumed_code, _ = RunProcess(tmp_path).end()
    sandbox.stop()

    assert (code, is_written) == (130, False)
    assert "The same command goes on from here." in said
    assert resumed_code == 0
    found = verify_files(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert found.is_whole
    assert found.successes == REQUESTS
    calls = sandbox.calls_by_body()
    assert (len(calls), calls.total()) == (REQUESTS, REQUESTS)


def test_what_is_left_goes_out_in_the_order_that_is_asked_for_when_it_goes_on(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    prompts = 4
    prompt_of = dict[str, int]()
    with (tmp_path / "in.jsonl").open("w") as file:
        for number in range(REQUESTS):
            text = f"{number % prompts}".ljust(2_000, "x") + f" no. {number}"
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            line = {"custom_id": f"r-{number}", "method": "POST", "url": CHAT, "body": body}
            file.write(json.dumps(line) + "\n")
            prompt_of[sha256(json.dumps(body).encode()).hexdigest()] = number % prompts

    first = RunProcess(tmp_path)
    wait_for_calls(first, sandbox.ledger_path, REQUESTS // 4)
    first.send(signal.SIGINT)
    first.end()
    before = len(sandbox.calls_by_body())
    resumed_code, _ = RunProcess(tmp_path, "--order", "prefix").end()
    sandbox.stop()

    assert resumed_code == 0
    sent = [prompt_of[call["sha256"]] for call in sandbox.ledger()]
    assert len(sent) == REQUESTS
    left = sent[before:]
    together = sum(one == next_one for one, next_one in pairwise(left))
    assert together > 0.7 * len(left)


def test_killed_and_resumed_nothing_is_lost_and_repeats_are_at_most_the_slots_and_told(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    write_requests(tmp_path)

    first = RunProcess(tmp_path)
    wait_for_calls(first, sandbox.ledger_path, REQUESTS // 2)
    first.send(signal.SIGKILL)
    first.end()
    code, said = RunProcess(tmp_path).end()
    sandbox.stop()

    assert code == 0
    found = verify_files(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert found.is_whole
    assert found.successes == REQUESTS
    calls = sandbox.calls_by_body()
    repeats = calls.total() - REQUESTS
    assert len(calls) == REQUESTS
    assert 0 < repeats <= SLOTS
    told = next(line for line in said.splitlines() if line.startswith("possibly paid twice"))
    assert repeats <= int(told.split()[3].replace(",", "")) <= SLOTS


def test_killed_and_resumed_what_is_asked_twice_is_sent_once_but_for_what_is_told(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    count = 25 * REQUESTS
    write_requests(tmp_path, count=count, distinct=REQUESTS)

    first = RunProcess(tmp_path, "--dedupe")
    wait_for_calls(first, sandbox.ledger_path, REQUESTS // 2)
    first.send(signal.SIGKILL)
    first.end()
    code, said = RunProcess(tmp_path, "--dedupe").end()
    sandbox.stop()

    assert code == 0
    found = verify_files(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert found.is_whole
    assert found.successes == count
    calls = sandbox.calls_by_body()
    repeats = calls.total() - REQUESTS
    assert len(calls) == REQUESTS
    assert 0 < repeats <= SLOTS
    assert f"saved   {count - REQUESTS:,} requests" in said


def test_sigterm_stops_as_ctrl_c_does_and_the_next_signal_leaves_at_once(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    write_requests(tmp_path, model="sandbox/hold", count=5)

    process = RunProcess(tmp_path)
    wait_for_calls(process, sandbox.ledger_path, 5)
    process.send(signal.SIGTERM)
    process.wait_until_it_says("Ctrl-C again leaves at once")
    process.send(signal.SIGINT)
    code, _ = process.end()
    held = sandbox.held()

    assert code == 130
    assert held <= 5
    assert not (tmp_path / "out.jsonl").exists()


def test_a_run_whose_model_is_not_served_at_the_moment_waits_for_the_next_time(
    sandbox: SandboxProcess, tmp_path: Path
) -> None:
    write_requests(tmp_path, model="sandbox/wait-50", count=200)
    settings = tmp_path / "batchwright.toml"
    served = settings.read_text()

    first = RunProcess(tmp_path)
    wait_for_calls(first, sandbox.ledger_path, 100)
    first.send(signal.SIGKILL)
    first.end()
    settings.write_text(served.replace('"sandbox/*"', '"other"'))
    code, said = RunProcess(tmp_path).end()
    settings.write_text(served)
    resumed_code, _ = RunProcess(tmp_path).end()

    assert code == 1
    assert "is not served" in said
    assert resumed_code == 0
    found = verify_files(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (found.is_whole, found.successes) == (True, 200)
