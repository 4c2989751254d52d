"""The real server as a real process on loopback, to be killed and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from batchwright.data_directory import rehearsal_of


class ServerProcess:
    """`batchwright serve` on a free port over one data directory.

    `start` returns when it is ready. `kill` is SIGKILL, `stop` SIGTERM; both wait for the end.
    """

    def __init__(self, data_dir: Path, *arguments: str, config: str | None = None) -> None:
        self.data_dir = data_dir
        self.base_url = ""
        self._arguments = arguments
        self._config = data_dir.with_suffix(".toml")
        self._config.write_text(config or "")
        self._log = data_dir.with_suffix(".log")
        self._process: subprocess.Popen[str] | None = None

    @property
    def key(self) -> str:
        is_rehearsing = "--rehearse" in self._arguments
        folder = rehearsal_of(self.data_dir) if is_rehearsing else self.data_dir
        return (folder / "admin.key").read_text().strip()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
        command = [sys.executable, "-m", "batchwright", "serve", "--json", "--port", "0"]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--data-dir", self.data_dir, "--config", self._config, *self._arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{") and "base_url" in line:
                self.base_url = json.loads(line)["base_url"]
                return
        raise AssertionError(f"the server did not start:\n{self.log}")

    def kill(self) -> None:
        self._end(9)

    def stop(self) -> int:
        """Returns the exit code."""
        return self._end(15)

    def _end(self, signal_number: int) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal_number)
        code = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
