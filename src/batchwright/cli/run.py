"""`batchwright run`: a file of rows or requests in, a file of answers out, on this machine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from batchwright.cli.exits import Exit
from batchwright.cli.inspection import say_inspection
from batchwright.cli.options import ConfigFile, Json
from batchwright.cli.run_display import Display, open_display
from batchwright.cli.terminal import note, say, say_json, shown_span
from batchwright.config import Config, load_config
from batchwright.local.errors import Stopped
from batchwright.local.inspection import inspect, line_chunks
from batchwright.local.job import Job, RunOptions, default_output_of, plan_file
from batchwright.local.logs import quiet_logs
from batchwright.local.merge import Settled
from batchwright.local.runner import Controls, config_for_run, run_job, settle_state
from batchwright.local.state import Manifest, RunState, open_state, state_folder_of
from batchwright.local.summary import Causes, Summary
from batchwright.tables import parse_param, read_prompt

T = TypeVar("T")

CAUSES_SHOWN = 10
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
            help="Where the answers go; its extension says the form. Else beside INPUT.",
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count and check, show the first request, send none.")
    ] = False,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Calls in flight, for every provider."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run those that failed again.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Forget what is done, also what was paid, and begin anew."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an OUTPUT that is not from a run.")
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
    options = RunOptions(
        model=model,
        prompt=None if prompt is None else read_prompt(prompt),
        system=None if system is None else read_prompt(system),
        embed=embed,
        params=dict(parse_param(each) for each in param or ()),
        prefix=prefix,
        limit=limit,
    )
    settings = load_config(config)
    job = plan_file(source, output or default_output_of(source), options)
    if model is not None and job.unit == "line":
        note(f'--model: every request is sent with the model "{model}" instead of its own')
    with quiet_logs():
        if dry_run:
            return _look(job, settings, as_json=as_json)
        command = _Command(job, settings, concurrency, retry_failed, as_json)
        with open_state(state_folder_of(job.paths[0])) as state:
            return command.run(state, settle_state(job, state, restart=restart, force=force))


def _look(job: Job, config: Config, *, as_json: bool) -> int:
    """`--dry-run`."""
    chunks = line_chunks(job.request_lines())
    return say_inspection(
        _in_loop(inspect(chunks, job.url, config)),
        unit=job.unit,
        shows_first=True,
        as_json=as_json,
    )


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(work)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # other Pythons than CPython
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Command:
    """One `batchwright run` that sends."""

    def __init__(
        self,
        job: Job,
        config: Config,
        concurrency: int | None,
        retry_failed: bool,
        as_json: bool,
    ) -> None:
        self._job = job
        self._config = config
        self._concurrency = concurrency
        self._retry_failed = retry_failed
        self._as_json = as_json

    def run(self, state: RunState, manifest: Manifest) -> int:
        if manifest.is_finished and not self._may_retry(manifest):
            return self._say_finished(manifest)
        if manifest.is_sent and not manifest.is_finished:
            note(f"going on with {self._job.paths[0]}: what is answered is not asked again")
        with open_display() as display:
            ended = _in_loop(self._work(state, manifest, display))
        return self._say_stopped(ended) if isinstance(ended, Stopped) else self._say_summary(ended)

    def _may_retry(self, manifest: Manifest) -> bool:
        return self._retry_failed and bool(manifest.summary.get("failed"))

    async def _work(
        self, state: RunState, manifest: Manifest, display: Display
    ) -> Summary | Stopped:
        stop = asyncio.Event()
        config = config_for_run(self._config, state, concurrency=self._concurrency)
        with _signals(stop, display, config.limits.grace_s):
            try:
                summary, _ = await run_job(
                    self._job,
                    state,
                    manifest,
                    self._deliver,
                    config=config,
                    controls=Controls(observer=display.show, stop=stop),
                    retry_failed=self._retry_failed,
                )
            except Stopped as stopped:
                return stopped
            return summary

    def _deliver(self, read: Callable[[], Iterator[Settled]], causes: Causes) -> None:
        self._job.write(read(), causes)

    # The end

    def _say_finished(self, manifest: Manifest) -> int:
        found = manifest.summary
        if self._as_json:
            say_json({**found, "sent": False})
            return Exit.OK
        say(
            f"{self._job.paths[0]} is finished already: {found['completed']:,} of "
            f"{found['total']:,} answered, {found['failed']:,} failed. Nothing was sent."
        )
        if found["failed"] and not self._retry_failed:
            say("--retry-failed runs those that failed again, --restart everything.")
        return Exit.OK

    def _say_stopped(self, stopped: Stopped) -> int:
        note(f"{stopped} The same command goes on from here.")
        return Exit.STOPPED

    def _say_summary(self, summary: Summary) -> int:
        if self._as_json:
            say_json({**summary.to_json(), "sent": True})
        else:
            _say_summary(summary)
        return Exit.OK if summary.is_all_answered else Exit.REQUESTS_FAILED


@contextmanager
def _signals(stop: asyncio.Event, display: Display, grace_s: float) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops gracefully, a second one leaves at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            display.__exit__(None, None, None)  # give the cursor back
            os._exit(Exit.STOPPED)  # what is answered is on the disk already
        stop.set()
        display.say(
            f"Stopping: waiting up to {grace_s:.0f} s for calls that are out. "
            "Ctrl-C again leaves at once."
        )

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _say_summary(summary: Summary) -> None:
    failed = f", {summary.failed:,} failed" if summary.failed else ""
    empty = f", {summary.unanswered:,} without an answer" if summary.unanswered else ""
    say(
        f"{summary.completed:,} of {summary.total:,} answered{failed}{empty} "
        f"in {shown_span(summary.elapsed_s)}"
    )
    usage = summary.usage
    say(f"tokens  {usage.input_tokens:,} in, {usage.output_tokens:,} out")
    say(f"cost    ${summary.cost:,.4f}" if summary.cost else "cost    $0")
    if summary.possibly_paid_twice:
        say(f"possibly paid twice  {summary.possibly_paid_twice:,} (an answer was lost on the way)")
    say(f"output  {summary.output}")
    if summary.errors is not None:
        say(f"errors  {summary.errors}")
    say(f"state   {summary.state}{os.sep}")
    _say_causes(summary)


def _say_causes(summary: Summary) -> None:
    for cause in summary.causes[:CAUSES_SHOWN]:
        say(f"{cause.count:>7,} × {cause.text}  ({summary.unit} {cause.number:,})")
    others = sum(cause.count for cause in summary.causes[CAUSES_SHOWN:])
    if others:
        say(f"{others:>7,} × other errors")
    if summary.failed:
        say("--retry-failed runs those that failed again.")
