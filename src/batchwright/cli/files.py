"""`batchwright files`: the files of a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchwright.cli.connection import connect, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.help import Program
from batchwright.cli.options import (
    ApiKey,
    BaseUrl,
    ConfigFile,
    Json,
    require_file,
    require_folder_of,
)
from batchwright.cli.terminal import (
    note,
    say,
    say_json,
    say_table,
    shown_bytes,
    shown_time,
)
from batchwright.domain.errors import UsageError

if TYPE_CHECKING:
    from batchwright.client.api import Client

PAGE = 1000
COLUMNS = ("id", "purpose", "size", "name", "created", "expires")

app = Program(help="Files: list, upload, download, delete.")

FileId = Annotated[str, typer.Argument(metavar="ID", help="The file.")]


@app.command("list")
def list_files(
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first; else 20.")] = 20,
    purpose: Annotated[
        str | None, typer.Option(help="Only those of one purpose: batch, batch_output.")
    ] = None,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """List the files, the newest first."""

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            found = [file async for file in _newest(processor.client, limit, purpose)]
        if as_json:
            say_json(found)
        else:
            if not found:
                note("no file; upload one with: batchwright files upload FILE")
            say_table(COLUMNS, [_row(file) for file in found])
        return Exit.OK

    return run_async(work())


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to upload.")],
    *,
    purpose: Annotated[str, typer.Option(help="What it is for; else batch.")] = "batch",
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Upload a file and print its id."""
    require_file(file, "batch requests (JSONL)" if purpose == "batch" else f"purpose {purpose}")

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            made = await processor.client.upload_file(file, purpose=purpose)
        if as_json:
            say_json(made)
        else:
            say(made["id"])
        return Exit.OK

    return run_async(work())


@app.command()
def download(
    file_id: FileId,
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to; else its own name here."),
    ] = None,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
) -> int:
    """Download a file; one that is there already is not overwritten unless named with -o."""

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            if output is not None:
                require_folder_of(output)
            target = output or _free(await _own_name(processor.client, file_id))
            size_bytes = await processor.client.download(file_id, target)
        note(f"{shown_bytes(size_bytes)} in {target}")
        return Exit.OK

    return run_async(work())


@app.command()
def delete(
    file_id: FileId,
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Delete a file."""

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            deleted = await processor.client.delete_file(file_id)
        if as_json:
            say_json(deleted)
        else:
            say(f"{deleted['id']}  deleted")
        return Exit.OK

    return run_async(work())


async def _newest(client: Client, limit: int, purpose: str | None) -> AsyncIterator[dict[str, Any]]:
    after: str | None = None
    while limit > 0:
        page = await client.list_files(
            limit=min(limit, PAGE), after=after, purpose=purpose, order="desc"
        )
        for file in page["data"]:
            yield file
        limit -= len(page["data"])
        if not page.get("has_more") or not page["data"]:
            return
        after = page["data"][-1]["id"]


async def _own_name(client: Client, file_id: str) -> Path:
    """The file's own name, in this folder: a server must not choose another one."""
    file = await client.get_file(file_id)
    name = Path(str(file.get("filename") or file_id).replace("\\", "/")).name
    return Path(name if name not in ("", ".", "..") else file_id.replace("/", "_"))


def _free(path: Path) -> Path:
    if path.exists():
        raise UsageError(f"{path} is there already; name one with -o")
    return path


def _row(file: dict[str, Any]) -> tuple[object, ...]:
    return (
        file["id"],
        file.get("purpose"),
        shown_bytes(file.get("bytes") or 0),
        file.get("filename"),
        shown_time(file.get("created_at")),
        shown_time(file.get("expires_at")),
    )
