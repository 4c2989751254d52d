"""`batchwright retry`: a new batch of the requests that got no answer."""

from __future__ import annotations

from pathlib import Path

from batchwright.cli.connection import connect, given_or_newest, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.options import ApiKey, BaseUrl, BatchId, ConfigFile, Json
from batchwright.cli.terminal import note, say, say_json


def retry(
    batch_id: BatchId = None,
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Start a new batch of the failed requests of one that has ended, and print its id."""
    return run_async(_retry(batch_id, config, base_url, api_key, as_json))


async def _retry(
    batch_id: str | None,
    config: Path | None,
    base_url: str | None,
    api_key: str | None,
    as_json: bool,
) -> int:
    async with connect(config, base_url, api_key) as processor:
        wanted = await given_or_newest(processor.client, batch_id)
        batches = [
            await processor.client.retry_batch(batch["id"])
            for batch in (await processor.status(wanted)).batches
            if _has_failures(batch) or "," not in wanted
        ]
    if as_json:
        say_json(batches[0] if len(batches) == 1 else batches)
    elif batches:
        say(",".join(str(batch["id"]) for batch in batches))
    else:
        note("no request failed; there is nothing to retry")
    return Exit.OK


def _has_failures(batch: dict[str, object]) -> bool:
    counts = batch.get("request_counts")
    return isinstance(counts, dict) and bool(counts.get("failed"))
