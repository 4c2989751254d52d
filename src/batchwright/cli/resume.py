"""`batchwright resume`: go on with a paused batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from batchwright.cli.list import newest
from batchwright.cli.options import ApiKey, BaseUrl, ConfigFile, Json
from batchwright.cli.steering import is_paused, steer
from batchwright.domain.errors import UsageError

if TYPE_CHECKING:
    from batchwright.client.api import Client

LOOKED_AT_MAX = 10_000  # batches, the newest first


def resume(
    batch_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="The batch; without it the newest that is paused."),
    ] = None,
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Go on with a paused batch."""
    return steer(
        batch_id,
        lambda client, one: client.resume_batch(one),
        without_id=_newest_paused,
        config=config,
        base_url=base_url,
        api_key=api_key,
        as_json=as_json,
    )


async def _newest_paused(client: Client) -> str:
    async for batch in newest(client, LOOKED_AT_MAX):
        if is_paused(batch):
            return str(batch["id"])
    raise UsageError("no batch is paused")
