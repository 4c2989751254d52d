"""`batchwright cancel`: end a batch early."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchwright.cli.connection import connect, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.options import ApiKey, BaseUrl, ConfigFile, Json
from batchwright.cli.terminal import say, say_json


def cancel(
    batch_id: Annotated[str, typer.Argument(metavar="ID", help="The batch.")],
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Cancel a batch; the answers that there are stay."""
    return run_async(_cancel(batch_id, config, base_url, api_key, as_json))


async def _cancel(
    batch_id: str, config: Path | None, base_url: str | None, api_key: str | None, as_json: bool
) -> int:
    async with connect(config, base_url, api_key) as processor:
        batches = (await processor.cancel(batch_id)).batches
    if as_json:
        say_json(batches[0] if len(batches) == 1 else list(batches))
    else:
        for batch in batches:
            say(f"{batch['id']}  {batch['status']}")
    return Exit.OK
