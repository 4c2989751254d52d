"""A sandbox in a process of its own, for tests: real sockets, a ledger, a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import urlopen

READY = "sandbox listening on "


class SandboxProcess:
    """`with SandboxProcess("--latency", "100ms") as sandbox: … sandbox.base_url …`

    Starts `python -m batchwright.sandbox` on a free port, with a ledger in `ledger_path` (a
    temporary file unless given), and returns once it listens. `cpu` pins it to one core.
    """

    def __init__(
        self,
        *arguments: str,
        ledger_path: Path | None = None,
        with_ledger: bool = True,
        cpu: int | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sandbox-")
        self._errors = Path(self._folder.name) / "stderr"
        self._with_ledger = with_ledger
        self.ledger_path = ledger_path or Path(self._folder.name) / "ledger.jsonl"
        ledger = ["--ledger", str(self.ledger_path)] if with_ledger else []
        self._command = [sys.executable, "-m", "batchwright.sandbox", *ledger, *arguments]
        self._cpu = cpu
        self._process: subprocess.Popen[str] | None = None
        self.base_url = ""  # with /v1, known after start

    def start(self) -> SandboxProcess:
        """Start the process and wait for its ready line."""
        source = str(Path(__file__).resolve().parents[2] / "src")
        paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        if self._cpu is not None:
            os.sched_setaffinity(self._process.pid, {self._cpu})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(READY):
            code = self.stop()
            text = self._errors.read_text()
            self._folder.cleanup()
            raise RuntimeError(f"the sandbox did not start: exit code {code}, {line}{text}")
        self.base_url = line.removeprefix(READY).strip()
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop with a signal; the exit code. Safe twice; the ledger can be read afterwards."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process is not None
        return self._process.pid

    def ledger(self) -> list[dict[str, Any]]:
        """What the sandbox has written so far: `time`, `path`, `sha256`, `status`,
        `x_request_id`. Complete after `stop`; while it runs, up to 20 ms behind."""
        if not self.ledger_path.exists():
            return []
        lines = self.ledger_path.read_bytes().split(b"\n")
        return [json.loads(line) for line in lines[:-1]]

    def calls_by_body(self) -> Counter[str]:
        """How often each body (by its SHA-256) was received."""
        return Counter(row["sha256"] for row in self.ledger())

    def release(self) -> int:
        """Let go of every answer of `sandbox/hold`; how many there were."""
        return int(self._ask("/sandbox/release", b"")["released"])

    def held(self) -> int:
        """How many answers wait for `release`."""
        return int(self._ask("/sandbox/held", None)["held"])

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        url = self.base_url.removesuffix("/v1") + path
        with urlopen(url, data=body, timeout=10) as answer:
            return json.load(answer)  # type: ignore[no-any-return]

    def __enter__(self) -> SandboxProcess:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._folder.cleanup()
