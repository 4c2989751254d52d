"""How long another request waits at most while the server validates a large file.

    python benchmarks/waiting.py [--mb 200] [--rounds 3]

A second client asks for one file object without pause while a batch is `validating`; its longest
wait counts, and beside it the longest in the same span while the server has nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path
from time import perf_counter

import measure
from upload import KINDS, OwnServer, own_server
from validation import ORDINARY, file_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    measure.show_machine()
    os.sched_setaffinity(0, {measure.SANDBOX_CPU})  # the clients
    rows = []
    with measure.scratch() as folder:
        for number, kind in enumerate(KINDS):
            source = folder / "input.jsonl"
            source.write_bytes(b"".join(file_of(ORDINARY[kind], arguments.mb * 10**6)))
            own_folder = folder / f"kind-{number}"
            own_folder.mkdir()
            rows.append((kind, *waits(source, own_folder, arguments.rounds)))
    measure.show_table(
        f"The longest wait of another request while {arguments.mb} MB are validated",
        ("lines", "validating, ms", "idle, ms"),
        rows,
    )


def waits(source: Path, folder: Path, rounds: int) -> tuple[str, str]:
    busy_ms, idle_ms = [], []
    for number in range(rounds):
        round_folder = folder / str(number)
        round_folder.mkdir()
        with own_server(round_folder) as server:
            file_id = server.upload(source)
            started = perf_counter()
            with Asking(server, file_id) as asking:
                server.validate(file_id)
            busy_ms.append(asking.longest_ms)
            span_s = perf_counter() - started
        idle_folder = folder / f"idle-{number}"
        idle_folder.mkdir()
        with own_server(idle_folder) as server:
            file_id = server.upload(source)
            with Asking(server, file_id) as asking:
                threading.Event().wait(span_s)
            idle_ms.append(asking.longest_ms)
    return measure.spread(busy_ms), measure.spread(idle_ms)


class Asking:
    """A client in a thread that asks for a file object again and again."""

    def __init__(self, server: OwnServer, file_id: str) -> None:
        self.longest_ms = 0.0
        self._server = server
        self._path = f"/files/{file_id}"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._is_over.is_set():
            started = perf_counter()
            self._server.ask("GET", self._path)
            self.longest_ms = max(self.longest_ms, 1e3 * (perf_counter() - started))


if __name__ == "__main__":
    main()
