"""`batchwright results`: the result lines of a batch."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchwright.cli.connection import connect, given_or_newest, run_async
from batchwright.cli.exits import Exit, exit_of_batch
from batchwright.cli.options import ApiKey, BaseUrl, BatchId, ConfigFile, require_folder_of
from batchwright.cli.terminal import note, plain, shown_count
from batchwright.domain.errors import UsageError

if TYPE_CHECKING:
    from batchwright.client.api import Client
    from batchwright.client.results import Results

Wire = dict[str, Any]

PAGE = 100
CHUNK_BYTES = 2**20


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

    Of a batch that still runs it prints what is durable so far; with -o it refuses. Of one whose
    input was refused it says why. Of a batch joined with its retry each request comes once, as it
    ended last. The exit code tells how the batch ended.
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
    answers, failures = await _parts(client, batches)
    await _write(client, answers, output)
    failed = output.with_suffix(f".errors{output.suffix}")
    if failures:
        await _write(client, failures, failed)
    elif failed.exists():
        note(f"{failed} was there before: nothing failed here")


async def _write(client: Client, parts: Sequence[_Part], path: Path) -> None:
    from batchwright.replacing import replacing_async

    lines = 0
    async with replacing_async(path) as temporary:
        with temporary.open("wb") as target:
            for part in parts:
                async for chunk in _content(client, part):
                    lines += chunk.count(b"\n")
                    await asyncio.to_thread(target.write, chunk)
    note(f"{shown_count(lines, 'line')} in {path}")


async def _print_files(client: Client, batches: Sequence[Wire]) -> None:
    for parts in await _parts(client, batches):
        for part in parts:
            async for line in _lines(client, part):
                _print(line)


@dataclass(frozen=True, slots=True)
class _Part:
    """A result file, and whose lines of it stand."""

    file_id: str
    ids: frozenset[str] | None  # None: all


async def _parts(client: Client, batches: Sequence[Wire]) -> tuple[list[_Part], list[_Part]]:
    """The files of the answers, and those of the failures.

    Of several batches a retry takes the place of the failures that it repeats.
    """
    if len(batches) == 1:
        return _whole(batches[0], "output_file_id"), _whole(batches[0], "error_file_id")
    answers: list[_Part] = []
    failures: list[_Part] = []
    outlines = [await _outline(client, batch) for batch in batches]
    for batch, (good, bad), standing in zip(batches, outlines, _standing(outlines), strict=True):
        answers += _some(batch, "output_file_id", good.keys() & standing)
        failures += _some(batch, "error_file_id", bad.keys() & standing)
    return answers, failures


def _standing(outlines: Sequence[tuple[Results, Results]]) -> list[set[str]]:
    """The ids of each batch whose results no later one has replaced."""
    from batchwright.client.results import merge

    found = [good | bad for good, bad in outlines]
    standing: list[set[str]] = [set() for _ in found]
    for job in merge(found):
        last = {name: place for place in job.members for name in found[place]}
        for name, place in last.items():
            standing[place].add(name)
    return standing


async def _outline(client: Client, batch: Wire) -> tuple[Results, Results]:
    """The results in the output and in the error file, without their content."""
    from batchwright.client.results import read_result

    files: tuple[Results, Results] = ({}, {})
    for results, which in zip(files, ("output_file_id", "error_file_id"), strict=True):
        for part in _whole(batch, which):
            async for line in client.iter_lines(part.file_id):
                result = read_result(line, batch["endpoint"])
                results[result["id"]] = {**result, "response": None}
    return files


def _whole(batch: Wire, which: str) -> list[_Part]:
    return [_Part(batch[which], None)] if batch.get(which) else []


def _some(batch: Wire, which: str, ids: Set[str]) -> list[_Part]:
    return [_Part(part.file_id, frozenset(ids)) for part in _whole(batch, which) if ids]


async def _content(client: Client, part: _Part) -> AsyncIterator[bytes]:
    if part.ids is None:
        async for chunk in client.iter_content(part.file_id):
            yield chunk
        return
    gathered = bytearray()
    async for line in _lines(client, part):
        gathered += line + b"\n"
        if len(gathered) >= CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


async def _lines(client: Client, part: _Part) -> AsyncIterator[bytes]:
    async for line in client.iter_lines(part.file_id):
        if part.ids is None or str(json.loads(line)["custom_id"]) in part.ids:
            yield line


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


def _print(line: bytes) -> None:
    """A line as it is; in a terminal without what could control it."""
    if sys.stdout.isatty():
        line = plain(line.decode("utf-8", "replace")).encode()
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
