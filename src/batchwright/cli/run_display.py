"""What `batchwright run` shows while it works: a bar in a terminal, else a line now and then."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from batchwright.cli.terminal import note, plain, shown_count, shown_span
from batchwright.local.progress import Snapshot

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

LINE_EVERY_S = 10.0

_PHASES = {
    "preparing": "preparing",
    "validating": "checking the requests",
    "running": "running",
    "stopping": "stopping",
    "writing": "writing the output",
}


class Display(AbstractContextManager["Display"], Protocol):
    """Shows snapshots. Use it in `with`."""

    def show(self, snapshot: Snapshot) -> None:
        """Cheap: called several times a second."""
        ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...


def open_display() -> Display:
    """The display that fits where stderr goes."""
    return TerminalDisplay() if sys.stderr.isatty() else LineDisplay()


class LineDisplay(AbstractContextManager["LineDisplay"]):
    """A line at each step, and every ten seconds while requests are run."""

    def __init__(self) -> None:
        self._phase: str | None = None
        self._next_at = 0.0

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, snapshot: Snapshot) -> None:
        now = monotonic()
        if snapshot.phase == self._phase and now < self._next_at:
            return
        self._phase = snapshot.phase
        self._next_at = now + LINE_EVERY_S
        note(_line(snapshot))

    def say(self, text: str) -> None:
        note(text)


class TerminalDisplay(AbstractContextManager["TerminalDisplay"]):
    """A bar with its figures, and below it what holds the run back."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        self._bar = _bar()
        self._task = self._bar.add_task("", total=None)
        self._below = Text("", style="dim", overflow="ellipsis", no_wrap=True)
        self._console = Console(stderr=True, markup=False, highlight=False)
        self._live = Live(
            get_renderable=self._renderable,
            console=self._console,
            refresh_per_second=5,
            transient=True,
        )

    def __enter__(self) -> TerminalDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        self._bar.update(
            self._task,
            description=_PHASES[snapshot.phase],
            completed=snapshot.done,
            total=snapshot.total or None,
        )
        held = _held_back(snapshot)
        self._below.plain = "  ".join([*_figures(snapshot), *([held] if held else ())])

    def say(self, text: str) -> None:
        self._console.print(plain(text))

    def _renderable(self) -> RenderableType:
        from rich.console import Group

        return Group(self._bar, self._below)


def _bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    )


def _line(snapshot: Snapshot) -> str:
    if not snapshot.total:
        return _PHASES[snapshot.phase]
    head = f"{_PHASES[snapshot.phase]}: {snapshot.done:,} of {snapshot.total:,}"
    line = ", ".join([head, *_figures(snapshot)])
    return line if (held := _held_back(snapshot)) is None else f"{line} {held}"


def _figures(snapshot: Snapshot) -> list[str]:
    """What is known and worth a word."""
    figures = []
    if snapshot.failed:
        figures.append(f"{snapshot.failed:,} failed")
    if snapshot.phase == "stopping":
        figures.append(f"{shown_count(snapshot.in_flight, 'call')} still out")
    elif snapshot.phase == "running":
        figures.append(f"{_rate(snapshot.calls_per_s)} calls/s")
        figures.append(f"{_rate(snapshot.tokens_per_s)} tokens/s")
        if snapshot.left_s is not None:
            figures.append(f"{shown_span(snapshot.left_s)} left")
    return figures


def _held_back(snapshot: Snapshot) -> str | None:
    if snapshot.phase != "running" or snapshot.holds_back is None:
        return None
    return f"({plain(snapshot.holds_back)})"


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"
