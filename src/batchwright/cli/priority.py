"""`batchwright priority`: give a batch another share."""

from __future__ import annotations

from typing import Annotated

import typer

from batchwright.cli.options import ApiKey, BaseUrl, ConfigFile, Json
from batchwright.cli.steering import steer
from batchwright.domain.priority import Priority


def priority(
    batch_id: Annotated[str, typer.Argument(metavar="ID", help="The batch.")],
    level: Annotated[Priority, typer.Argument(metavar="LEVEL", help="low, normal or high.")],
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Change how much of a provider a batch gets, beside your other batches there.

    A high one gets four times as much as a normal one, and a low one a quarter.
    """
    return steer(
        batch_id,
        lambda client, one: client.set_priority(one, level.value),
        config=config,
        base_url=base_url,
        api_key=api_key,
        as_json=as_json,
    )
