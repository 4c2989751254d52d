"""`batchwright wait`: until a batch has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from batchwright.cli.connection import connect, given_or_newest, run_async
from batchwright.cli.exits import exit_of_batch
from batchwright.cli.options import ApiKey, BaseUrl, BatchId, ConfigFile, Json
from batchwright.cli.status import described
from batchwright.cli.terminal import note, say, say_json

if TYPE_CHECKING:
    from batchwright.client.job_status import JobStatus
    from batchwright.client.processor import AsyncBatchProcessor


def wait(
    batch_id: BatchId = None,
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Wait until a batch has ended; the exit code tells how.

    Ctrl-C ends the waiting alone: the batch goes on at the server.
    """
    return run_async(_wait(batch_id, config, base_url, api_key, as_json))


async def _wait(
    batch_id: str | None,
    config: Path | None,
    base_url: str | None,
    api_key: str | None,
    as_json: bool,
) -> int:
    async with connect(config, base_url, api_key) as processor:
        wanted = await given_or_newest(processor.client, batch_id)
        batches = (await wait_for(processor, wanted)).batches
    if as_json:
        say_json(batches[0] if len(batches) == 1 else list(batches))
    else:
        for batch in batches:
            for line in described(batch):
                say(line)
    return max(exit_of_batch(batch) for batch in batches)


async def wait_for(processor: AsyncBatchProcessor, batch_id: str) -> JobStatus:
    """Wait until a job has ended; an interruption says that the job itself goes on."""
    try:
        return await processor.wait(batch_id)
    except asyncio.CancelledError:
        note(f"the batch goes on at the server; to wait again: batchwright wait {batch_id}")
        raise
