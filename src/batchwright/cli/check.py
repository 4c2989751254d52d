"""`batchwright check`: is a file of batch requests what it should be? Nothing is sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchwright.cli.options import ConfigFile, Json, require_requests
from batchwright.cli.terminal import note

if TYPE_CHECKING:
    from batchwright.config import Config
    from batchwright.local.inspection import Inspection


def check(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Batch requests (JSONL).")],
    *,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Check a file of batch requests: every fault, with its line.

    Counts the requests and their tokens, and tells which of the models are served here. That none
    of the providers here serves one is no fault: a server may have others. Nothing is sent. Exits
    with 2 if something is wrong.
    """
    import asyncio

    from batchwright.cli.inspection import say_inspection
    from batchwright.config import load_config
    from batchwright.local.inspection import file_chunks, inspect
    from batchwright.local.job import url_of
    from batchwright.local.logs import quiet_logs

    form = require_requests(source)
    settings = load_config(config)
    with quiet_logs():
        found = asyncio.run(inspect(file_chunks(source), url_of(form), settings))
    _note_limits(found, source, settings)
    return say_inspection(found, as_json=as_json)


def _note_limits(found: Inspection, source: Path, config: Config) -> None:
    """`run` has no limits; a server has."""
    limits = config.limits
    requests_max = limits.requests_per_batch
    if requests_max is not None and found.report.total > requests_max:
        note(f"more than the {requests_max:,} requests that a batch of a server may have")
    if source.stat().st_size > limits.file_mb * 2**20:
        note(f"larger than the {limits.file_mb:,} MiB that a server takes in one file")
