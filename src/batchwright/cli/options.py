"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings; else ./batchwright.toml, else ~/.config/batchwright/config.toml.",
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="The server; else BATCHWRIGHT_BASE_URL, else the one of the data directory.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        help="Its key; else BATCHWRIGHT_API_KEY, else the one of the data directory.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
BatchId = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="The batch; without it the newest.")
]
