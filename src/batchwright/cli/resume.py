"""`batchwright resume`: go on with a paused batch."""

from __future__ import annotations

from batchwright.cli.options import ApiKey, BaseUrl, BatchId, ConfigFile, Json
from batchwright.cli.steering import steer


def resume(
    batch_id: BatchId = None,
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
        config=config,
        base_url=base_url,
        api_key=api_key,
        as_json=as_json,
    )
