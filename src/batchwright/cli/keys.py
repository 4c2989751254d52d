"""`batchwright keys`: who may use a server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from batchwright.cli.connection import connect, run_async
from batchwright.cli.exits import Exit
from batchwright.cli.help import Program
from batchwright.cli.options import ApiKey, BaseUrl, ConfigFile, Json
from batchwright.cli.terminal import note, say, say_json, say_table, shown_time

COLUMNS = ("id", "name", "tenant", "role", "created", "revoked")

app = Program(help="API keys: create, list, revoke. Needs an admin key.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is or what it is for.")],
    *,
    tenant: Annotated[
        str | None,
        typer.Option(help="The tenant whose batches it reaches; else default."),
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="user or admin; an admin manages keys. Else user.")
    ] = None,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """Make a key and print it. It is shown this once and kept nowhere."""

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            made = await processor.client.create_key(name=name, tenant=tenant, role=role)
        if as_json:
            say_json(made)
        else:
            say(made["key"])
            note(f"key {made['id']}, {made['role']} of tenant {made['tenant']}; shown this once")
        return Exit.OK

    return run_async(work())


@app.command("list")
def list_keys(
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """List the keys of all tenants, without their text."""

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            found = await processor.client.list_keys()
        if as_json:
            say_json(found)
        else:
            say_table(COLUMNS, [_row(key) for key in found])
        return Exit.OK

    return run_async(work())


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the key, not its text.")],
    *,
    config: ConfigFile = None,
    base_url: BaseUrl = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> int:
    """End a key at once."""

    async def work() -> int:
        async with connect(config, base_url, api_key) as processor:
            revoked = await processor.client.revoke_key(key_id)
        if as_json:
            say_json(revoked)
        else:
            say(f"{revoked['id']}  revoked {shown_time(revoked.get('revoked_at'))}")
        return Exit.OK

    return run_async(work())


def _row(key: dict[str, Any]) -> tuple[object, ...]:
    return (
        key["id"],
        key.get("name"),
        key.get("tenant"),
        key.get("role"),
        shown_time(key.get("created_at")),
        shown_time(key.get("revoked_at")),
    )
