"""What the benchmarks share: a sandbox on its own core, requests, processes, tables.

Everything under test, its rivals included, runs on the core `ENGINE_CPU` and the sandbox on
`SANDBOX_CPU`. What is compared is measured in turns within one run, and medians are shown with
the least and the most beside them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

SOURCE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(SOURCE / "src"), str(SOURCE / "tests" / "support")]

from sandbox_process import SandboxProcess  # noqa: E402

PEERS_PYTHON = SOURCE / ".venv-peers" / "bin" / "python"
ENGINE_CPU = 0
SANDBOX_CPU = 1
MODEL = "bench"
ENDPOINT = "/v1/chat/completions"
LONG_PROMPT_BYTES = 4000
UPSTREAM_SHARE_PERCENT_MAX = 70.0
UPSTREAM_CALLS_PER_S_MIN = 50_000.0
CPU_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def show_machine() -> None:
    """One line of what the figures depend on."""
    names = ("httptools", "pyreqwest", "msgspec", "uvloop", "aiohttp", "openai")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(f"load before: {load} (anything well over 0 spoils the figures)\n", flush=True)


def pin_to_engine_cpu() -> None:
    """This process, and every one that it starts, runs on `ENGINE_CPU` from now on."""
    os.sched_setaffinity(0, {ENGINE_CPU})


@contextmanager
def sandbox(*arguments: str, with_ledger: bool = False) -> Iterator[SandboxProcess]:
    """An upstream on `SANDBOX_CPU`."""
    with SandboxProcess(*arguments, with_ledger=with_ledger, cpu=SANDBOX_CPU) as process:
        yield process


class OddSandbox(SandboxProcess):
    """The sandbox as `upstream.py` alters it; takes that program's options too."""

    def __init__(self, *arguments: str, with_ledger: bool = False) -> None:
        super().__init__(*arguments, with_ledger=with_ledger, cpu=SANDBOX_CPU)
        program = str(Path(__file__).with_name("upstream.py"))
        self._command = [sys.executable, program, *self._command[3:]]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk of the working directory: /tmp may be memory, where a sync is free."""
    with TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as folder:
        yield Path(folder)


def config_text(base_url: str, concurrency: int, *more: str) -> str:
    """Settings in which one provider serves the model; `more`: further lines about it.

    The API's own limit of requests is off: it is not what is measured.
    """
    lines = "".join(f"{line}\n" for line in more)
    return (
        "[providers.upstream]\n"
        'kind = "openai"\n'
        f'base_url = "{base_url}"\n'
        f'models = ["{MODEL}"]\n'
        f"max_concurrency = {concurrency}\n{lines}"
        "[limits]\nrequests_per_batch = 10000000\nfile_mb = 4000\nrequests_per_s = 0\n"
    )


def chat_body(number: int) -> bytes:
    """A small chat request, each its own."""
    message = {"role": "user", "content": f"Is review {number} good or bad?"}
    return json.dumps({"model": MODEL, "messages": [message]}).encode()


def long_chat_body(number: int) -> bytes:
    """A chat request of 4 kB, as `peer_calls.py` asks it too."""
    message = {"role": "user", "content": prompt(number, LONG_PROMPT_BYTES)}
    return json.dumps({"model": MODEL, "messages": [message]}).encode()


def prompt(number: int, size_bytes: int) -> str:
    """The text that is asked, filled up to a size; 0: a short one."""
    return f"Is review {number} good or bad?".ljust(size_bytes, "x")


def write_requests(
    path: Path, count: int, body_of: Callable[[int], bytes] = chat_body, first: int = 0
) -> Path:
    """An input file of `count` chat requests, small ones unless told otherwise."""
    head = b'{"custom_id": "request-%07d", "method": "POST", "url": "/v1/chat/completions", '
    with path.open("wb") as file:
        file.writelines(
            (head % number) + b'"body": ' + body_of(number) + b"}\n"
            for number in range(first, first + count)
        )
    return path


def environment() -> dict[str, str]:
    """Of a user without keys and settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": str(SOURCE / "src")}


def run_command(source: Path, config: Path, output: Path) -> list[str]:
    """`batchwright run` as it is typed."""
    command = [sys.executable, "-m", "batchwright", "run", str(source), "-o", str(output)]
    return [*command, "--config", str(config), "--json"]


@dataclass(frozen=True, slots=True)
class Ran:
    """One `batchwright run` that ended well."""

    wall_s: float  # from the start of the process to its end
    phases_s: dict[str, float]  # what it said it was doing, from the first time to the next
    summary: dict[str, Any]  # what it said in the end


def run_to_end(source: Path, config: Path, output: Path, *options: str) -> Ran:
    """Run the command; every request must be answered."""
    said: list[str] = []
    begun_s: dict[str, float] = {}
    started = perf_counter()
    with subprocess.Popen(
        [*run_command(source, config, output), *options],
        env={**environment(), "HOME": str(source.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            said.append(line)
            begun_s.setdefault(line.partition(":")[0].strip(), perf_counter() - started)
        told = process.stdout.read()  # short, so that it is held until now
    wall_s = perf_counter() - started
    if process.returncode != 0:
        raise SystemExit(f"batchwright run ended with {process.returncode}:\n{''.join(said)}")
    phases = [("starting", 0.0), *begun_s.items()]
    ends_s = [*begun_s.values(), wall_s]
    phases_s = {name: end - at for (name, at), end in zip(phases, ends_s, strict=True)}
    return Ran(wall_s, phases_s, json.loads(told))


@contextmanager
def serving(folder: Path, config: Path) -> Iterator[tuple[str, str, int]]:
    """`batchwright serve` in `folder`: its base URL (with /v1), its key and its process id."""
    command = [sys.executable, "-m", "batchwright", "serve", "--port", "0", "--json"]
    options = ["--data-dir", str(folder / "data"), "--config", str(config)]
    with (
        (folder / "serve.log").open("w") as log,
        subprocess.Popen(
            [*command, *options],
            env={**environment(), "HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield ready["base_url"], ready["admin_key"], process.pid
        except BaseException:
            if process.poll() is not None:
                print(f"the server ended:\n{(folder / 'serve.log').read_text()[-4000:]}")
            raise
        finally:
            process.kill()  # nothing of it is wanted any more


def anonymous_mb(pid: int) -> float:
    """The memory of a process that no file backs."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(pid: int) -> float:
    """The processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class UpstreamCore:
    """How busy an upstream kept its core while each way was measured.

    A figure says something about the way only where the upstream had time to spare.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began_s = 0.0
        self._shares_percent: dict[str, list[float]] = {}
        self._calls_per_s: dict[str, list[float]] = {}  # of its own processor time

    def begin(self) -> None:
        """What is measured now begins."""
        self._began_s = cpu_s(self._pid)

    def note(self, way: str, calls: int, taken_s: float) -> None:
        """It has ended: so many calls in so many seconds."""
        used_s = max(cpu_s(self._pid) - self._began_s, CPU_TICK_S)
        self._shares_percent.setdefault(way, []).append(100 * used_s / taken_s)
        self._calls_per_s.setdefault(way, []).append(calls / used_s)

    def share(self, way: str) -> str:
        """The median share of the core in percent."""
        return f"{statistics.median(self._shares_percent[way]):.0f}"

    def show(self, fastest: str) -> None:
        """Whether the upstream was out of the way; what it could answer is told by the fastest."""
        busiest = max(self._shares_percent, key=lambda way: float(self.share(way)))
        shares, calls = self._shares_percent[busiest], self._calls_per_s[fastest]
        show_table(
            "The sandbox, on a core of its own",
            ("what", "seen", "wanted", ""),
            [
                (
                    f"its core at the busiest ({busiest}), %",
                    *(spread(shares), *at_most(shares, UPSTREAM_SHARE_PERCENT_MAX)),
                ),
                (
                    "calls for each second of its processor time",
                    *(spread(calls), *at_least(calls, UPSTREAM_CALLS_PER_S_MIN)),
                ),
            ],
        )


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median (least … most)`."""
    median = statistics.median(values)
    return f"{median:,.{digits}f} ({min(values):,.{digits}f} … {max(values):,.{digits}f})"


def sizes(text: str) -> list[int]:
    """Of an option: `1000,10000`."""
    return [int(size) for size in text.split(",")]


VERDICTS = ("MISSED", "met")


def verdict(is_held: bool) -> str:
    """What stands beside a target."""
    return VERDICTS[is_held]


def at_least(values: Sequence[float], target: float, unit: str = "") -> tuple[str, str]:
    """The cells of a target for a median that must not be less."""
    return f"≥ {target:g}{unit}", verdict(statistics.median(values) >= target)


def at_most(values: Sequence[float], target: float, unit: str = "") -> tuple[str, str]:
    """The cells of a target for a median that must not be more."""
    return f"≤ {target:g}{unit}", verdict(statistics.median(values) <= target)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies, the nearest one above."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in Markdown, as it stands in the documentation."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"{title}\n")
    rules = ["-" * width for width in widths]
    for row in (header, rules, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |")
    print(flush=True)
