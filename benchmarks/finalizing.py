"""From the last answer of a batch to `completed`, by the number of requests.

    python benchmarks/finalizing.py [--quick] [--sizes 1000,10000,100000,1000000]

The engine runs in this process over a real data directory, so that the moment in which the last
answer arrives is known.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import measure
import uvloop

from batchwright.config import load_config
from batchwright.domain.file import Extent
from batchwright.domain.key import DEFAULT_TENANT
from batchwright.providers.base import Answer, Call
from batchwright.providers.http1 import Http1Transport
from batchwright.wiring import Node, open_node

TARGET_S = 0.5
QUICK_SIZES = "1000,10000,100000"
SIZES = f"{QUICK_SIZES},1000000"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 100,000")
    parser.add_argument("--sizes", help="else 1000,10000,100000,1000000, which takes minutes")
    arguments = parser.parse_args()
    sizes = measure.sizes(arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES))
    measure.show_machine()
    measure.pin_to_engine_cpu()
    with measure.sandbox() as upstream:
        taken_s = {size: uvloop.run(finalizing_s(upstream.base_url, size)) for size in sizes}
    measure.show_table(
        "From the last answer to completed",
        ("requests", "seconds", "wanted", ""),
        [
            (f"{size:,}", f"{taken:.3f}", *measure.at_most([taken], TARGET_S))
            for size, taken in taken_s.items()
        ],
    )


async def finalizing_s(base_url: str, count: int) -> float:
    with measure.scratch() as folder:
        settings = folder / "config.toml"
        settings.write_text(f'data_dir = "{folder / "data"}"\n' + measure.config_text(base_url, 64))
        source = measure.write_requests(folder / "input.jsonl", count)
        with LastAnswer() as last:
            async with open_node(load_config(settings)) as node:
                await node.engine.start()
                await run_batch(node, source)
                ended_at = time.perf_counter()
                await node.engine.stop()
        return ended_at - last.at


async def run_batch(node: Node, source: Path) -> None:
    data = source.read_bytes()
    file = node.engine.new_file(
        DEFAULT_TENANT, purpose="batch", filename=source.name, size_bytes=len(data), sha256=None
    )
    key = f"files/{file.id}"
    writer = await node.blobs.open_writer(key)
    await writer.write(data)
    await writer.finish()
    await node.store.create_file(DEFAULT_TENANT, file, [Extent(key, 0, len(data))])
    batch = await node.engine.create_batch(
        DEFAULT_TENANT,
        endpoint=measure.ENDPOINT,
        input_file_id=file.id,
        completion_window="24h",
    )
    await node.engine.wait(batch.id)
    ended = await node.engine.get_batch(DEFAULT_TENANT, batch.id)
    if ended.status != "completed" or ended.counts.completed != ended.counts.total:
        raise SystemExit(f"the batch ended as {ended.status}: {ended.counts}")


class LastAnswer:
    """Notes when the HTTP transport gave its last answer."""

    def __enter__(self) -> LastAnswer:
        self.at = 0.0
        self._send = send = Http1Transport.send

        async def noted(transport: Http1Transport, call: Call) -> Answer:
            answer = await send(transport, call)
            self.at = time.perf_counter()
            return answer

        Http1Transport.send = noted  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Http1Transport.send = self._send  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
