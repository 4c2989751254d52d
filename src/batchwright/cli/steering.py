"""What `pause`, `resume` and `priority` share: ask for a change, and show the batch after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchwright.cli.connection import connect, given_or_newest, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.terminal import say, say_json

if TYPE_CHECKING:
    from batchwright.client.api import Client

Wire = dict[str, Any]
Change = Callable[["Client", str], Awaitable[Wire]]


def steer(
    batch_id: str | None,
    change: Change,
    *,
    config: Path | None,
    base_url: str | None,
    api_key: str | None,
    as_json: bool,
) -> int:
    """Make a change to each batch of an id; several are joined by commas."""

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            wanted = await given_or_newest(processor.client, batch_id)
            batches = [await change(processor.client, one) for one in wanted.split(",")]
        if as_json:
            say_json(batches[0] if len(batches) == 1 else batches)
        else:
            for batch in batches:
                say(f"{batch['id']}  {shown_state(batch)}")
        return Exit.OK

    return run_async(work())


def shown_state(batch: Wire) -> str:
    """The state, with what a person has set that is not as always: `in_progress, paused, high`."""
    ours = batch.get("batchwright") or {}
    paused = ["paused"] if ours.get("paused_at") else []
    priority = ours.get("priority") or "normal"
    return ", ".join([batch["status"], *paused, *([] if priority == "normal" else [priority])])
