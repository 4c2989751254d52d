"""One `batchwright run`: it looks, or it works, and says how that went."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from batchwright.cli.exits import Exit
from batchwright.cli.inspection import say_inspection
from batchwright.cli.run_display import Display, open_display
from batchwright.cli.terminal import (
    note,
    say,
    say_json,
    shown_cached,
    shown_cost,
    shown_savings,
    shown_span,
)
from batchwright.config import Config
from batchwright.domain.order import Order, check_order
from batchwright.engine.results import Stretch
from batchwright.local.errors import Stopped
from batchwright.local.inspection import inspect, line_chunks
from batchwright.local.job import Job, RunOptions, default_output_of, plan_file
from batchwright.local.logs import quiet_logs
from batchwright.local.runner import Controls, config_for_run, run_job, settle_state
from batchwright.local.state import Manifest, RunState, open_state, state_folder_of
from batchwright.local.summary import Causes, Summary
from batchwright.system import prefer_throughput

T = TypeVar("T")

CAUSES_SHOWN = 10
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunCommand:
    """What was asked on the command line."""

    def __init__(
        self,
        source: Path,
        output: Path | None,
        options: RunOptions,
        config: Config,
        *,
        concurrency: int | None,
        order: Order,
        retry_failed: bool,
        as_json: bool,
    ) -> None:
        self._job: Job = plan_file(source, output or default_output_of(source), options)
        check_order(order, self._job.url, param="--order")
        self._config = config
        self._concurrency = concurrency
        self._order = order
        self._retry_failed = retry_failed
        self._as_json = as_json
        if options.model is not None and self._job.unit == "line":
            note(f'--model: every request is sent with "{options.model}" instead of its own model')

    def look(self) -> int:
        """`--dry-run`."""
        chunks = line_chunks(self._job.request_lines())
        with quiet_logs():
            dedupe = self._job.identity.dedupe
            found = _in_loop(inspect(chunks, self._job.url, self._config, dedupe=dedupe))
        return say_inspection(found, unit=self._job.unit, shows_first=True, as_json=self._as_json)

    def work(self, *, restart: bool, force: bool) -> int:
        """Run it, or go on with it; returns the exit code."""
        with quiet_logs(), open_state(state_folder_of(self._job.paths[0])) as state:
            manifest = settle_state(
                self._job,
                state,
                restart=restart,
                force=force,
                retry_failed=self._retry_failed,
            )
            return self._run(state, manifest)

    def _run(self, state: RunState, manifest: Manifest) -> int:
        if manifest.is_finished and not (self._retry_failed and manifest.has_failures):
            return self._say_finished(manifest)
        if manifest.is_sent and not manifest.is_finished:
            note(f"going on with {self._job.paths[0]}: what is answered is not asked again")
        with open_display() as display:
            ended = _in_loop(self._work(state, manifest, display))
        return self._say_stopped(ended) if isinstance(ended, Stopped) else self._say_summary(ended)

    async def _work(
        self, state: RunState, manifest: Manifest, display: Display
    ) -> Summary | Stopped:
        stop = asyncio.Event()
        data_dir = state.data_dir(manifest)
        config = config_for_run(self._config, data_dir, concurrency=self._concurrency)
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
                    order=self._order,
                )
            except Stopped as stopped:
                return stopped
            return summary

    def _deliver(self, read: Callable[[], Iterator[Stretch]], causes: Causes) -> None:
        self._job.write(read(), causes)

    # The end

    def _say_finished(self, manifest: Manifest) -> int:
        found = manifest.summary
        code = Exit.REQUESTS_FAILED if found["failed"] or found["unanswered"] else Exit.OK
        if self._as_json:
            say_json({**found, "sent": False})
            return code
        say(
            f"{self._job.paths[0]} is finished already: {found['completed']:,} of "
            f"{found['total']:,} answered, {found['failed']:,} failed. Nothing was sent."
        )
        if found["failed"] and not self._retry_failed:
            say("--retry-failed runs those that failed again, --restart everything.")
        return code

    def _say_stopped(self, stopped: Stopped) -> int:
        note(f"{stopped} The same command goes on from here.")
        return Exit.STOPPED

    def _say_summary(self, summary: Summary) -> int:
        if self._as_json:
            say_json({**summary.to_json(), "sent": True})
        else:
            _say_summary(summary)
        return Exit.OK if summary.is_all_answered else Exit.REQUESTS_FAILED


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    prefer_throughput()
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(work)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # other Pythons than CPython
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


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
        f"in {_elapsed(summary.elapsed_s)}"
    )
    usage = summary.usage
    cached = shown_cached(usage.cached_tokens, usage.input_tokens)
    say(f"tokens  {usage.input_tokens:,} in{cached}, {usage.output_tokens:,} out")
    say(f"cost    {shown_cost(summary.cost)}")
    saved = summary.savings
    if saved.requests:
        shown = shown_savings(saved.requests, saved.usage.total_tokens, saved.cost_usd)
        say(f"saved   {shown} (asked twice, sent once)")
    if summary.possibly_paid_twice:
        say(f"possibly paid twice  {summary.possibly_paid_twice:,} (an answer was lost on the way)")
    say(f"output  {summary.output}")
    if summary.errors is not None:
        say(f"errors  {summary.errors}")
    say(f"state   {_from_here(summary.state)}{os.sep}")
    _say_causes(summary)


def _from_here(path: Path) -> Path:
    """Relative to the working folder where it lies below it, as a person would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _elapsed(elapsed_s: float) -> str:
    return f"{elapsed_s:.1f} s" if elapsed_s < 10 else shown_span(elapsed_s)


def _say_causes(summary: Summary) -> None:
    for cause in summary.causes[:CAUSES_SHOWN]:
        say(f"{cause.count:>7,} × {cause.text}  ({summary.unit} {cause.number:,})")
    others = sum(cause.count for cause in summary.causes[CAUSES_SHOWN:])
    if others:
        say(f"{others:>7,} × other errors")
    if summary.failed:
        say("--retry-failed runs those that failed again.")
