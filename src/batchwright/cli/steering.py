"""What `pause`, `resume` and `priority` share: ask for a change, and show the batch after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchwright.cli.connection import connect, newest_batch, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.terminal import say, say_json

if TYPE_CHECKING:
    from batchwright.client.api import Client

Wire = dict[str, Any]
Change = Callable[["Client", str], Awaitable[Wire]]
Choice = Callable[["Client"], Awaitable[str]]


def steer(
    batch_id: str | None,
    change: Change,
    *,
    without_id: Choice = newest_batch,
    config: Path | None,
    base_url: str | None,
    api_key: str | None,
    as_json: bool,
) -> int:
    """Make a change to each batch of an id; several are joined by commas."""

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            client = processor.client
            wanted = await without_id(client) if batch_id is None else batch_id
            batches = [await change(client, one) for one in wanted.split(",")]
        if as_json:
            say_json(batches[0] if len(batches) == 1 else batches)
        else:
            for batch in batches:
                say(f"{batch['id']}  {shown_state(batch)}")
        return Exit.OK

    return run_async(work())


def is_paused(batch: Wire) -> bool:
    """Whether a batch waits to be resumed; one that has ended waits no more."""
    ours = batch.get("batchwright") or {}
    return bool(ours.get("paused_at")) and batch["status"] in ("validating", "in_progress")


def shown_state(batch: Wire) -> str:
    """The state, with what a person has set that is not as always: `in_progress, paused, high`."""
    ours = batch.get("batchwright") or {}
    paused = ["paused"] if is_paused(batch) else []
    priority = ours.get("priority") or "normal"
    return ", ".join([batch["status"], *paused, *([] if priority == "normal" else [priority])])
