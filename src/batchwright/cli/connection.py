"""The way from a command to its server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from batchwright.config import Config, load_config
from batchwright.domain.errors import UsageError

if TYPE_CHECKING:
    from batchwright.client.api import Client
    from batchwright.client.processor import AsyncBatchProcessor
    from batchwright.client.settings import Endpoint

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end."""
    return asyncio.run(work)


@asynccontextmanager
async def connect(
    config: Path | None, base_url: str | None, api_key: str | None, *, window: str = "24h"
) -> AsyncIterator[AsyncBatchProcessor]:
    """A client of the server that the options, the environment or the data directory name."""
    from batchwright.client.errors import Unauthenticated
    from batchwright.client.processor import AsyncBatchProcessor

    settings = load_config(config, with_providers=False)
    endpoint = find_endpoint(settings, base_url, api_key)
    if endpoint.is_loopback:
        await _check_listening(endpoint.base_url)
    async with AsyncBatchProcessor(
        endpoint.api_key, endpoint.base_url, completion_window=window
    ) as processor:
        try:
            yield processor
        except Unauthenticated as error:
            given = _key_given(api_key, endpoint, settings.data_dir)
            raise Unauthenticated(
                f"The server at {endpoint.base_url} does not take {given}", status=error.status
            ) from error


def _key_given(api_key: str | None, endpoint: Endpoint, data_dir: Path) -> str:
    """Where the key came from that was refused; never the key itself."""
    from batchwright.client.settings import KEY_FILE_NAME

    if endpoint.api_key is None:
        return "calls without a key, and none was given"
    if api_key:
        return "the key of --api-key"
    if os.environ.get("BATCHWRIGHT_API_KEY"):
        return "the key of BATCHWRIGHT_API_KEY"
    return f"the key of this machine ({data_dir / KEY_FILE_NAME})"


async def _check_listening(base_url: str) -> None:
    """Say at once that no server runs on this machine; the client would try for seconds."""
    from batchwright.client.errors import ServerUnreachable

    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        _, writer = await asyncio.open_connection(parts.hostname, port)
    except OSError as error:
        raise ServerUnreachable(f"No server at {base_url}") from error
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


def find_endpoint(config: Config, base_url: str | None, api_key: str | None) -> Endpoint:
    """The server and its key: by option, by environment, by data directory, by default."""
    from batchwright.client.settings import Endpoint, resolve_endpoint

    endpoint = resolve_endpoint(
        api_key, base_url, data_dir=config.data_dir, default_url=_configured(config)
    )
    if endpoint.api_key is None and endpoint.is_loopback and config.admin_key is not None:
        return Endpoint(endpoint.base_url, config.admin_key.value)
    return endpoint


def _configured(config: Config) -> str | None:
    server = config.server
    if server.public_url is not None:
        return server.public_url
    is_default = not {"server.host", "server.port"} & config.origins.keys()
    if is_default or not server.port:
        return None
    scheme = "https" if server.tls_cert_file else "http"
    return f"{scheme}://{reachable(server.host)}:{server.port}/v1"


def reachable(host: str) -> str:
    """How clients on this machine name an address to listen on."""
    named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"[{named}]" if ":" in named else named


async def given_or_newest(client: Client, batch_id: str | None) -> str:
    """The id that was given, or that of the newest batch. Raises `UsageError` if there is none."""
    return await newest_batch(client) if batch_id is None else batch_id


async def newest_batch(client: Client) -> str:
    """The id of the newest batch. Raises `UsageError` if there is none."""
    page = await client.list_batches(limit=1)
    if not page.get("data"):
        raise UsageError("there is no batch yet; make one with: batchwright submit FILE")
    return str(page["data"][0]["id"])
