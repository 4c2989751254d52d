"""`batchwright list`: the batches of a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchwright.cli.connection import connect, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.options import ApiKey, BaseUrl, ConfigFile, Json
from batchwright.cli.steering import shown_state
from batchwright.cli.terminal import note, say_json, say_table, shown_time

if TYPE_CHECKING:
    from batchwright.client.api import Client

PAGE = 100
COLUMNS = ("id", "status", "requests", "failed", "model", "created")


def list_batches(
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first; else 20.")] = 20,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """List the batches, the newest first."""
    return run_async(_list(limit, config, base_url, api_key, as_json))


async def _list(
    limit: int, config: Path | None, base_url: str | None, api_key: str | None, as_json: bool
) -> int:
    async with connect(config, base_url, api_key) as processor:
        batches = [batch async for batch in newest(processor.client, limit)]
    if as_json:
        say_json(batches)
    else:
        if not batches:
            note("no batch yet; make one with: batchwright submit FILE")
        say_table(COLUMNS, [_row(batch) for batch in batches])
    return Exit.OK


async def newest(client: Client, limit: int) -> AsyncIterator[dict[str, Any]]:
    """The newest batches, over as many pages as it takes."""
    after: str | None = None
    while limit > 0:
        page = await client.list_batches(limit=min(limit, PAGE), after=after)
        for batch in page["data"]:
            yield batch
        limit -= len(page["data"])
        if not page.get("has_more") or not page["data"]:
            return
        after = page["data"][-1]["id"]


def _row(batch: dict[str, Any]) -> tuple[object, ...]:
    counts = batch.get("request_counts") or {}
    total, completed, failed = (int(counts.get(k) or 0) for k in ("total", "completed", "failed"))
    return (
        batch["id"],
        shown_state(batch),
        f"{completed + failed:,}/{total:,}",
        failed,
        batch.get("model") or "-",
        shown_time(batch.get("created_at")),
    )
