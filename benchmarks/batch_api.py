"""Batches through the HTTP API of a server that a benchmark started, and keys of other tenants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import measure
from upload import OwnServer, pin

POLL_S = 0.02
GIVE_UP_S = 3600.0
ENDED = {"completed", "failed", "expired", "cancelled"}


@contextmanager
def batch_server(
    folder: Path, base_url: str, concurrency: int, *more: str
) -> Iterator[tuple[OwnServer, int]]:
    """`batchwright serve` on its core before an upstream, and its process id."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.toml"
    config.write_text(measure.config_text(base_url, concurrency, *more))
    with measure.serving(folder, config) as (own_url, key, pid):
        pin(pid)
        yield OwnServer(own_url, key), pid


def of_tenant(server: OwnServer, tenant: str) -> OwnServer:
    """The same server, asked with a new key of a tenant."""
    made = server.ask("POST", "/batchwright/keys", {"name": tenant, "tenant": tenant})
    return OwnServer(server.base_url, made["key"])


def create(server: OwnServer, file_id: str) -> str:
    """The id of a new batch."""
    wanted = {
        "input_file_id": file_id,
        "endpoint": measure.ENDPOINT,
        "completion_window": "24h",
    }
    return str(server.ask("POST", "/batches", wanted)["id"])


def wait(
    server: OwnServer, batch_id: str, *, completed: int | None = None, poll_s: float = POLL_S
) -> dict[str, Any]:
    """The batch as soon as it is completed, or that many of its requests are."""
    until = monotonic() + GIVE_UP_S
    while monotonic() < until:
        batch = server.ask("GET", f"/batches/{batch_id}")
        counts = batch["request_counts"]
        if completed is not None and counts["completed"] >= completed:
            return batch
        if batch["status"] in ENDED:
            if batch["status"] != "completed" or counts["completed"] != counts["total"]:
                raise SystemExit(f"the batch ended as {batch['status']}: {counts}")
            return batch
        sleep(poll_s)
    raise SystemExit(f"batch {batch_id} did not come to its end")
