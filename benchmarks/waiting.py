"""How long another request waits at most while the server validates a large file.

    python benchmarks/waiting.py [--mb 200] [--rounds 3]

A second client asks for one file object without pause while a batch is `validating`; its longest
wait counts, and beside it the longest in the same span while the server has nothing else to do.
An answer that is no success ends the program.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import measure
from upload import KINDS, OwnServer, own_server
from validation import ORDINARY, file_of

TARGET_MS = 50.0
SAMPLES_MIN = 20  # of a round; fewer say nothing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 MB, one round")
    parser.add_argument("--mb", type=int, help="else 200")
    parser.add_argument("--rounds", type=int, help="else 3")
    arguments = parser.parse_args()
    size_mb = arguments.mb or (100 if arguments.quick else 200)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    measure.show_machine()
    os.sched_setaffinity(0, {measure.SANDBOX_CPU})  # the clients
    rows = []
    with measure.scratch() as folder:
        for number, kind in enumerate(KINDS):
            source = folder / "input.jsonl"
            source.write_bytes(b"".join(file_of(ORDINARY[kind], size_mb * 10**6)))
            own_folder = folder / f"kind-{number}"
            own_folder.mkdir()
            rows.append((kind, *waits(source, own_folder, rounds)))
    measure.show_table(
        f"The longest wait of another request while {size_mb} MB are validated",
        ("lines", "validating, ms", "wanted", "", "asked", "idle, ms", "asked"),
        rows,
    )


def waits(source: Path, folder: Path, rounds: int) -> tuple[str, ...]:
    busy: list[Asking] = []
    idle: list[Asking] = []
    for number in range(rounds):
        round_folder = folder / str(number)
        round_folder.mkdir()
        with own_server(round_folder) as server:
            file_id = server.upload(source)
            started = perf_counter()
            with Asking(server, file_id) as asking:
                server.validate(file_id)
            busy.append(asking)
            span_s = perf_counter() - started
        idle_folder = folder / f"idle-{number}"
        idle_folder.mkdir()
        with own_server(idle_folder) as server:
            file_id = server.upload(source)
            with Asking(server, file_id) as asking:
                threading.Event().wait(span_s)
            idle.append(asking)
    busy_ms, idle_ms = longest_ms(busy), longest_ms(idle)
    cells = measure.at_most(busy_ms, TARGET_MS)
    return measure.spread(busy_ms), *cells, asked(busy), measure.spread(idle_ms), asked(idle)


def longest_ms(rounds: Sequence[Asking]) -> list[float]:
    return [asking.longest_ms for asking in rounds]


def asked(rounds: Sequence[Asking]) -> str:
    return measure.spread([asking.samples for asking in rounds])


class Asking:
    """A client in a thread that asks for a file object again and again.

    What goes wrong in the thread is raised at the end.
    """

    def __init__(self, server: OwnServer, file_id: str) -> None:
        self.longest_ms = 0.0
        self.samples = 0
        self._error: BaseException | None = None
        self._server = server
        self._path = f"/files/{file_id}"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if kind is not None:
            return
        if self._error is not None:
            raise self._error
        if self.samples < SAMPLES_MIN:
            raise SystemExit(f"only {self.samples} requests were asked: take a larger file")

    def _ask(self) -> None:
        try:
            while not self._is_over.is_set():
                started = perf_counter()
                self._server.ask("GET", self._path)
                self.longest_ms = max(self.longest_ms, 1e3 * (perf_counter() - started))
                self.samples += 1
        except BaseException as error:
            self._error = error


if __name__ == "__main__":
    main()
