"""`batchwright models`: what may be named as a model."""

from __future__ import annotations

from pathlib import Path

from batchwright.cli.connection import connect, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.options import ApiKey, BaseUrl, ConfigFile, Json
from batchwright.cli.terminal import say_json, say_table


def models(
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """List the models that the server knows by name, and who serves them."""
    return run_async(_models(config, base_url, api_key, as_json))


async def _models(
    config: Path | None, base_url: str | None, api_key: str | None, as_json: bool
) -> int:
    async with connect(config, base_url, api_key) as processor:
        found = await processor.client.list_models()
    if as_json:
        say_json(found)
    else:
        say_table(("model", "provider"), [(each["id"], each.get("owned_by")) for each in found])
    return Exit.OK
