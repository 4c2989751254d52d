"""`batchwright pause`: send nothing more of a batch for now."""

from __future__ import annotations

from batchwright.cli.options import ApiKey, BaseUrl, BatchId, ConfigFile, Json
from batchwright.cli.steering import steer


def pause(
    batch_id: BatchId = None,
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Send nothing more of a batch until it is resumed; its deadline stays."""
    return steer(
        batch_id,
        lambda client, one: client.pause_batch(one),
        config=config,
        base_url=base_url,
        api_key=api_key,
        as_json=as_json,
    )
