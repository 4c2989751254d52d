"""`batchwright submit`: upload a file of requests and start its batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from batchwright.cli.connection import connect, run_async
from batchwright.cli.exits import Exit, exit_of_batch
from batchwright.cli.options import (
    ApiKey,
    BaseUrl,
    ConfigFile,
    Json,
    require_file,
    require_requests,
)
from batchwright.cli.status import described
from batchwright.cli.terminal import note, say, say_json
from batchwright.cli.wait import wait_for
from batchwright.domain.errors import UsageError
from batchwright.domain.order import Order
from batchwright.domain.priority import Priority
from batchwright.domain.window import age_s, window_s


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Requests in batch form (JSONL).")],
    *,
    window: Annotated[
        str, typer.Option(metavar="SPAN", help="Time to finish in: 30m, 24h (the default), 7d.")
    ] = "24h",
    description: Annotated[
        str | None, typer.Option(help="Kept on the batch as metadata.description.")
    ] = None,
    priority: Annotated[
        Priority | None,
        typer.Option(metavar="LEVEL", help="low, normal or high, beside your other batches."),
    ] = None,
    dedupe: Annotated[
        bool,
        typer.Option("--dedupe", help="Send requests with the same body once; all get the answer."),
    ] = False,
    order: Annotated[
        Order | None,
        typer.Option(
            metavar="ORDER",
            help="In which order they are sent: input, or prefix (what begins alike together, "
            "for the provider's prompt cache).",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN", help="Take answers of your earlier batches with --cache: 1s to 365d."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Upload FILE, start its batch, and print the batch's id.

    A file beyond 50,000 requests or 200 MB becomes several batches. Their ids are printed joined
    by commas, which every other command takes.
    """
    require_file(file, "batch requests (JSONL)")
    require_requests(file)
    window_s(window)  # raises before anything is uploaded
    options: dict[str, Any] = {"dedupe": True} if dedupe else {}
    if cache is not None:
        options["cache"] = {"max_age_s": _age_s(cache)}
    if priority is not None:
        options["priority"] = priority.value
    if order is not None:
        options["order"] = order.value
    return run_async(
        _submit(file, window, description, options, wait, config, base_url, api_key, as_json)
    )


def _age_s(cache: str) -> int:
    try:
        return age_s(cache)
    except UsageError as error:
        raise UsageError(f"--cache: {error}") from None


async def _submit(
    file: Path,
    window: str,
    description: str | None,
    options: dict[str, Any],
    wait: bool,
    config: Path | None,
    base_url: str | None,
    api_key: str | None,
    as_json: bool,
) -> int:
    async with connect(config, base_url, api_key, window=window) as processor:
        batch_id = await processor.submit_batch(file, description, batch_options=options)
        if not as_json:
            say(batch_id)
        if not wait:
            if as_json:
                say_json(list((await processor.status(batch_id)).batches))
            else:
                note(f"batchwright wait {batch_id}")
            return Exit.OK
        status = await wait_for(processor, batch_id)
        if as_json:
            say_json(list(status.batches))
        else:
            for batch in status.batches:
                for line in described(batch):
                    note(line)
        return max(exit_of_batch(batch) for batch in status.batches)
