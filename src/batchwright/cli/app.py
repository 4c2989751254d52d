"""The program: every command in the order in which `--help` shows them.

A command's module imports what it needs within the command, so that `--help` is quick and no
command pays for another.
"""

from __future__ import annotations

from typing import Annotated

import typer

from batchwright.cli import files, keys
from batchwright.cli.cancel import cancel
from batchwright.cli.check import check
from batchwright.cli.config import config
from batchwright.cli.help import Program
from batchwright.cli.list import list_batches
from batchwright.cli.models import models
from batchwright.cli.pause import pause
from batchwright.cli.priority import priority
from batchwright.cli.results import results
from batchwright.cli.resume import resume
from batchwright.cli.retry import retry
from batchwright.cli.run import run
from batchwright.cli.sandbox import sandbox
from batchwright.cli.serve import serve
from batchwright.cli.status import status
from batchwright.cli.submit import submit
from batchwright.cli.terminal import say
from batchwright.cli.verify import verify
from batchwright.cli.wait import wait

app = Program(
    name="batchwright",
    help="AI batch processing: a file of requests in, a file of answers out.",
    pretty_exceptions_enable=False,  # errors are told by `cli.edge`
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        say(f"batchwright {version('batchwright')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """AI batch processing: a file of requests in, a file of answers out."""


LOCAL = "Work on this machine"
SERVER = "Ask a server"

# These work alone.
app.command(rich_help_panel=LOCAL)(run)
app.command(rich_help_panel=LOCAL)(check)
app.command(rich_help_panel=LOCAL)(verify)
app.command(rich_help_panel=LOCAL)(serve)
app.command(rich_help_panel=LOCAL)(sandbox)
app.command(rich_help_panel=LOCAL)(config)

# These speak HTTP to a server, ours or another's.
app.command(rich_help_panel=SERVER)(submit)
app.command(rich_help_panel=SERVER)(status)
app.command("list", rich_help_panel=SERVER)(list_batches)
app.command(rich_help_panel=SERVER)(wait)
app.command(rich_help_panel=SERVER)(results)
app.command(rich_help_panel=SERVER)(pause)
app.command(rich_help_panel=SERVER)(resume)
app.command(rich_help_panel=SERVER)(priority)
app.command(rich_help_panel=SERVER)(cancel)
app.command(rich_help_panel=SERVER)(retry)
app.command(rich_help_panel=SERVER)(models)
app.add_typer(files.app, name="files", rich_help_panel=SERVER)
app.add_typer(keys.app, name="keys", rich_help_panel=SERVER)
