"""`batchwright run`: a file of rows or requests in, a file of answers out, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchwright.cli.options import ConfigFile, Json
from batchwright.domain.order import Order


def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="Rows (CSV, JSONL, Parquet) or batch requests (JSONL)."
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="OUTPUT",
            help="Where the answers go; its extension says the form. Else beside INPUT: "
            "NAME.answers.csv, or NAME.results.jsonl for batch requests.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model; of batch requests, instead of theirs."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help='What is asked about each row: "Classify: {review}", or @FILE; '
            "a literal brace is {{ or }}.",
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system message, or @FILE.")
    ] = None,
    embed: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Embed this column instead.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--param",
            metavar="NAME=VALUE",
            help="A further field of each request: max_completion_tokens=50. May be repeated.",
        ),
    ] = None,
    prefix: Annotated[
        str, typer.Option(metavar="TEXT", help="Before the names of the columns that are added.")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N, as a trial.")
    ] = None,
    dedupe: Annotated[
        bool,
        typer.Option("--dedupe", help="Send what is asked twice once; both get the answer."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count and check, show the first request, send none.")
    ] = False,
    concurrency: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Calls in flight at each provider, at most; it begins at 50."
        ),
    ] = None,
    order: Annotated[
        Order,
        typer.Option(
            metavar="ORDER",
            help="In which order they are sent: input, or prefix (what begins alike together, "
            "for the provider's prompt cache).",
        ),
    ] = Order.INPUT,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run those that failed again.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Forget what is done, also what was paid, and begin anew."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Overwrite an OUTPUT that no run wrote, or that was changed since."
        ),
    ] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> int:
    """Answer every row or request of a file.

    The same command again goes on where it was stopped or killed: no answer that was recorded is
    paid for again. What is done is kept in OUTPUT.batchwright/; OUTPUT itself is written at the
    end, whole. Ctrl-C stops sending and keeps what comes back within 30 s; a second one leaves at
    once.
    """
    from batchwright.cli.run_command import RunCommand
    from batchwright.config import load_config
    from batchwright.local.job import RunOptions
    from batchwright.tables import parse_param, read_prompt

    options = RunOptions(
        model=model,
        prompt=None if prompt is None else read_prompt(prompt),
        system=None if system is None else read_prompt(system),
        embed=embed,
        params=dict(parse_param(each) for each in param or ()),
        prefix=prefix,
        limit=limit,
        dedupe=dedupe,
    )
    command = RunCommand(
        source,
        output,
        options,
        load_config(config),
        concurrency=concurrency,
        order=order,
        retry_failed=retry_failed,
        as_json=as_json,
    )
    return command.look() if dry_run else command.work(restart=restart, force=force)
