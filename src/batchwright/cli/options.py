"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchwright.domain.errors import UsageError

if TYPE_CHECKING:
    from batchwright.tables import InputForm

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


def require_file(path: Path, what: str) -> None:
    """Raise `UsageError` where `path` is no file that can be read; `what` it should hold."""
    if path.is_dir():
        raise UsageError(f"FILE: expected a file of {what}, got the folder {path}")
    if not path.exists():
        raise UsageError(f"FILE: expected a file of {what}, got {path}, which is not there")
    if not os.access(path, os.R_OK):
        raise UsageError(f"FILE: expected a file that you may read, got {path}; see: ls -l {path}")


def require_requests(path: Path) -> InputForm:
    """The form of a file of batch requests. Raises `UsageError` for any other file."""
    from batchwright.tables import sniff

    form = sniff(path)
    if form.kind != "batch":
        raise UsageError(
            f"expected batch requests (JSONL), and {path} holds {form.label}: its first line is no "
            f"object with custom_id, url and body. For rows: batchwright run {path}"
        )
    return form


def require_folder_of(output: Path) -> None:
    """Raise `UsageError` where a file of this name cannot be written."""
    if output.is_dir():
        raise UsageError(f"--output: expected the name of a file, got the folder {output}")
    if not output.parent.is_dir():
        raise UsageError(f"--output: expected a folder that exists, got {output.parent}")


BatchId = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="The batch; without it the newest.")
]
