"""`batchwright results`: the result lines of a batch."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchwright.cli.connection import connect, given_or_newest, run_async
from batchwright.cli.exits import Exit, exit_of_batch
from batchwright.cli.options import ApiKey, BaseUrl, BatchId, ConfigFile, require_folder_of
from batchwright.cli.terminal import note, plain, shown_count
from batchwright.domain.errors import UsageError

if TYPE_CHECKING:
    from batchwright.client.http import Client

Wire = dict[str, Any]

PAGE = 100


def results(
    batch_id: BatchId = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write answers to FILE, failures beside it with .errors before its extension.",
        ),
    ] = None,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Print the result lines of a batch: answers first, then failures.

    Of a batch that still runs it prints what is durable so far. Of one whose input was refused it
    says why. The exit code tells how the batch ended.
    """
    if output is not None:
        require_folder_of(output)
    return run_async(_results(batch_id, output, config, base_url, api_key))


async def _results(
    batch_id: str | None,
    output: Path | None,
    config: Path | None,
    base_url: str | None,
    api_key: str | None,
) -> int:
    async with connect(config, base_url, api_key) as processor:
        client = processor.client
        wanted = await given_or_newest(client, batch_id)
        status = await processor.status(wanted)
        if output is not None:
            if not status.is_done:
                raise UsageError(f"{wanted} is still running; first: batchwright wait {wanted}")
            if all(batch["status"] == "failed" for batch in status.batches):
                status.require_valid()  # there is nothing to write
            await _write_files(client, status.batches, output)
        elif status.is_done:
            await _print_files(client, status.batches)
        else:
            await _print_so_far(client, status.batches)
            return Exit.OK
    status.require_valid()
    return max(exit_of_batch(batch) for batch in status.batches)


async def _write_files(client: Client, batches: Sequence[Wire], output: Path) -> None:
    """The output file always, as it may be waited for; the error file where there are failures."""
    await _write(client, _ids(batches, "output_file_id"), output)
    failures = output.with_suffix(f".errors{output.suffix}")
    if ids := _ids(batches, "error_file_id"):
        await _write(client, ids, failures)
    else:
        failures.unlink(missing_ok=True)  # of an earlier download of another batch


async def _write(client: Client, file_ids: Sequence[str], path: Path) -> None:
    partial = path.with_name(path.name + ".part")
    lines = 0
    with partial.open("wb") as target:
        for file_id in file_ids:
            async for chunk in client.iter_content(file_id):
                lines += chunk.count(b"\n")
                await asyncio.to_thread(target.write, chunk)
    partial.replace(path)
    note(f"{shown_count(lines, 'line')} in {path}")


async def _print_files(client: Client, batches: Sequence[Wire]) -> None:
    for which in ("output_file_id", "error_file_id"):
        for file_id in _ids(batches, which):
            async for line in client.iter_lines(file_id):
                _print(line)


async def _print_so_far(client: Client, batches: Sequence[Wire]) -> None:
    count = 0
    for batch in batches:
        async for result in _durable(client, batch["id"]):
            _print(json.dumps(result, ensure_ascii=False).encode())
            count += 1
    note(f"still running: {shown_count(count, 'result')} so far")


async def _durable(client: Client, batch_id: str) -> AsyncIterator[Wire]:
    after: str | None = None
    while True:
        page = await client.batch_results(batch_id, after=after, limit=PAGE)
        for result in page["data"]:
            yield result
        after = page.get("next")
        if not page.get("has_more"):
            return


def _ids(batches: Sequence[Wire], which: str) -> list[str]:
    return [batch[which] for batch in batches if batch.get(which)]


def _print(line: bytes) -> None:
    """A line as it is; in a terminal without what could control it."""
    if sys.stdout.isatty():
        line = plain(line.decode("utf-8", "replace")).encode()
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
