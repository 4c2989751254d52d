"""`batchwright serve` as a process, and commands run against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    folder: Path
    base_url: str
    admin_key: str | None


def environment(**more: str) -> dict[str, str]:
    """Of a user without keys and settings; the package is found where this process finds it."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **more}


def command(
    arguments: Sequence[str], folder: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "batchwright", *arguments],
        cwd=folder,
        env=environment(HOME=str(folder), **more),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def serving(folder: Path, *arguments: str, **more: str) -> Iterator[Served]:
    """A server in `folder`, from its ready line until it is stopped."""
    with (
        (folder / "serve.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "batchwright", "serve", "--port", "0", "--json", *arguments],
            cwd=folder,
            env=environment(HOME=str(folder), **more),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "serve.log").read_text()
            ready = json.loads(line)
            yield Served(process, folder, ready["base_url"], ready["admin_key"])
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(STOP_TIMEOUT_S)
