"""Short texts embedded through `batchwright run`, with packing and without, and by peers in lists.

    make peers                                  # once: what it is compared with, in .venv-peers
    python benchmarks/packing.py [--requests 100000] [--rounds 3] [--concurrency 64] [--quick]

Every request is one text for a vector of 256 dimensions. All ways take turns against one sandbox
on its own core; the share of that core is shown, since an embedding is more work for it than a
small chat. The rate of the command is that of its whole life without its start-up, which is that
of a run of one request; beside it that of the calls alone. A peer sends lists of 256 or 2,048
texts, whichever suits it better in a trial, as many at a time as the command has calls in flight;
its rate is that from its first call to its last answer.

The lines do not say how they want their vectors and get floats. In one way more, which stands
beside the others and is held to nothing, they ask for base64, as the `openai` SDK does by itself.

Once without latency, which the targets are for, and once with 200 ms. Without packing fewer are
sent where a call takes its time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import measure
from peers import VERSIONS, said_s

DIMENSIONS = 256
UNPACKED_TARGET = 8.0
PEERS_TARGET = 1.5
ENDPOINT = "/v1/embeddings"
PACKED = "packed"
UNPACKED = "unpacked"
PACKED_BASE64 = "packed, base64"
PACKING = {PACKED: "true", UNPACKED: "false", PACKED_BASE64: "true"}
BASE64_PEER = "aiohttp-base64"  # stands beside the lines that ask for it
PEERS = {
    "aiohttp": "aiohttp and a semaphore",
    BASE64_PEER: "aiohttp and a semaphore, base64",
    "openai": "AsyncOpenAI and a semaphore",
    "langchain": "LangChain aembed_documents",
    "lm-deluge": "lm-deluge embed, 96 at most",
    "litellm": "litellm aembedding",
}
SLOW_PEERS_TEXTS = {"litellm": 10_000}  # it takes more than a millisecond for each
LIST_SIZES = (256, 2048)
TRIAL_TEXTS = 8192


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, help="else 100,000")
    parser.add_argument("--rounds", type=int, help="else 3")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--peers", default=",".join(PEERS), help="with commas between")
    parser.add_argument("--quick", action="store_true", help="20,000 requests, one round")
    arguments = parser.parse_args()
    requests = arguments.requests or (20_000 if arguments.quick else 100_000)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    peers = (
        [name for name in arguments.peers.split(",") if name]
        if measure.PEERS_PYTHON.exists()
        else []
    )
    measure.show_machine()
    measure.pin_to_engine_cpu()
    if not measure.PEERS_PYTHON.exists():
        print("`make peers` installs the peers; without them only packing is measured.\n")
    compare(requests, requests, rounds, arguments.concurrency, peers, "0ms")
    compare(requests, requests // 10, rounds, arguments.concurrency, peers, "200ms")


def compare(
    requests: int, unpacked: int, rounds: int, concurrency: int, peers: Sequence[str], latency: str
) -> None:
    """Measure and show all ways at one latency of the upstream; `unpacked` requests go alone."""
    with measure.sandbox("--latency", latency) as upstream, measure.scratch() as folder:
        core = measure.UpstreamCore(upstream.pid)
        comparison = Comparison(folder, upstream.base_url, core, concurrency)
        comparison.prepare(requests, unpacked, peers)
        for number in range(rounds):
            comparison.measure_round(number)
    comparison.show(latency)


class Comparison:
    """Every way in turn, round after round."""

    def __init__(
        self, folder: Path, base_url: str, core: measure.UpstreamCore, concurrency: int
    ) -> None:
        self._folder = folder
        self._base_url = base_url
        self._core = core
        self._concurrency = concurrency
        self._texts: dict[str, int] = {}
        self._list_sizes: dict[str, int] = {}
        self._rates: dict[str, list[float]] = {}
        self._calls_alone: dict[str, list[float]] = {}

    def prepare(self, requests: int, unpacked: int, peers: Sequence[str]) -> None:
        self._texts = {PACKED: requests, UNPACKED: unpacked, PACKED_BASE64: requests}
        settings = measure.config_text(self._base_url, self._concurrency)
        settings += "embedding_inputs_per_batch = 0\n"
        for way, value in PACKING.items():
            self._config(way).write_text(f"{settings}pack_embeddings = {value}\n")
            form = "base64" if way == PACKED_BASE64 else None
            write_texts(self._folder / f"{way}.jsonl", self._texts[way], form)
        self._single = write_texts(self._folder / "single.jsonl", 1)
        measure.run_to_end(self._single, self._config(PACKED), self._folder / "warm-up.jsonl")
        for peer in peers:
            self._texts[peer] = min(requests, SLOW_PEERS_TEXTS.get(peer, requests))
            count = min(self._texts[peer], TRIAL_TEXTS)
            trials = {size: self._peer_s(peer, count, size) for size in LIST_SIZES}
            self._list_sizes[peer] = min(trials, key=lambda size: trials[size])

    def measure_round(self, number: int) -> None:
        for way in PACKING:
            self._take_run(way, number)
        for peer, size in self._list_sizes.items():
            self._core.begin()
            self._note(peer, self._peer_s(peer, self._texts[peer], size))

    def show(self, latency: str) -> None:
        measure.show_table(
            f"Short texts, {DIMENSIONS} dimensions, latency {latency}, one core, "
            f"{self._concurrency} calls in flight",
            (
                *("way", "texts", "in lists of", "texts a second", "the calls alone"),
                "sandbox's core, %",
            ),
            [self._row(way) for way in self._rates],
        )
        self._show_ratios(
            PACKED, [peer for peer in self._list_sizes if peer != BASE64_PEER], latency
        )
        self._show_ratios(PACKED_BASE64, list(self._list_sizes), latency)

    def _show_ratios(self, way: str, peers: Sequence[str], latency: str) -> None:
        """`way` against unpacked and against peers; the targets are for floats without latency."""
        is_held = way == PACKED and latency == "0ms"
        rows = [
            ("unpacked, the whole run", self._rates[UNPACKED], UNPACKED_TARGET),
            *((self._name(peer), self._rates[peer], None) for peer in peers),
        ]
        if peers:
            of_round = zip(*(self._rates[peer] for peer in peers), strict=True)
            rows.append(("the best peer of each round", list(map(max, of_round)), PEERS_TARGET))
        measure.show_table(
            f"{self._name(way)} against others, latency {latency}",
            ("the other", "ratio", "wanted", ""),
            [self._ratio_row(way, *row, is_held=is_held) for row in rows],
        )

    def _take_run(self, way: str, number: int) -> None:
        config = self._config(way)
        single = self._folder / f"{way}-single-{number}.jsonl"
        start_s = measure.run_to_end(self._single, config, single).wall_s
        output = self._folder / f"{way}-output-{number}.jsonl"
        self._core.begin()
        ran = measure.run_to_end(self._folder / f"{way}.jsonl", config, output)
        self._note(way, ran.wall_s - start_s)
        alone = self._texts[way] / ran.phases_s["running"]
        self._calls_alone.setdefault(way, []).append(alone)
        output.unlink()

    def _note(self, way: str, taken_s: float) -> None:
        self._core.note(way, self._texts[way], taken_s)
        self._rates.setdefault(way, []).append(self._texts[way] / taken_s)

    def _peer_s(self, peer: str, count: int, list_size: int) -> float:
        program = str(Path(__file__).with_name("peer_embeddings.py"))
        numbers = map(str, (count, self._concurrency, list_size))
        command = [str(measure.PEERS_PYTHON), program, peer, self._base_url, *numbers]
        return said_s(peer, command, measure.environment())

    def _row(self, way: str) -> tuple[str, ...]:
        alone = self._calls_alone.get(way)
        size = self._list_sizes.get(way)
        return (
            *(self._name(way), f"{self._texts[way]:,}", "–" if size is None else f"{size:,}"),
            measure.spread(self._rates[way]),
            "–" if alone is None else measure.spread(alone),
            self._core.share(way),
        )

    def _ratio_row(
        self, way: str, name: str, rates: Sequence[float], target: float | None, *, is_held: bool
    ) -> tuple[str, ...]:
        pairs = zip(self._rates[way], rates, strict=True)
        ratios = [packed / other for packed, other in pairs]
        cells = ("–", "–")
        if target is not None and is_held:
            cells = measure.at_least(ratios, target)
        return name, measure.spread(ratios, 2), *cells

    def _name(self, way: str) -> str:
        return f"{PEERS[way]} ({VERSIONS[way]})" if way in PEERS else f"batchwright run, {way}"

    def _config(self, way: str) -> Path:
        return self._folder / f"{way}.toml"


def write_texts(path: Path, count: int, form: str | None = None) -> Path:
    """An input file of `count` embedding requests, each for a text of its own; `form` is how they
    ask for its vector."""
    named = {} if form is None else {"encoding_format": form}
    with path.open("w") as file:
        for number in range(count):
            body = {
                "model": measure.MODEL,
                "input": f"Review {number}: it does what it says.",
                "dimensions": DIMENSIONS,
                **named,
            }
            line = {"custom_id": f"request-{number:07}", "method": "POST", "url": ENDPOINT}
            file.write(json.dumps({**line, "body": body}) + "\n")
    return path


if __name__ == "__main__":
    main()
