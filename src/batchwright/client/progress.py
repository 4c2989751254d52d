"""A progress bar in a terminal, a line that updates in a notebook, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

REFRESH_S = 0.2
_BAR_WIDTH = 20  # so that state and total have room in 80 columns


class Progress(Protocol):
    """Shows how far a job is. Use it in `with`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` (0: not known yet) are settled. Cheap: it may be called often."""
        ...


def open_progress(label: str, wanted: bool | None = None, *, job: str = "") -> Progress:
    """The progress bar that fits where we run.

    `wanted`: None shows one in a terminal or notebook, True always, False never. `job` names what
    is waited for, so that it can be taken up again; in a terminal it stays above the bar.
    """
    if wanted is False:
        return SilentProgress()
    display = _notebook_display()
    if display is not None:
        return NotebookProgress(f"{job} {label}".strip(), display)
    if wanted or sys.stderr.isatty():
        return TerminalProgress(label, job)
    return SilentProgress()


class SilentProgress:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, done: int, total: int, note: str = "") -> None:
        """Nothing."""


class TerminalProgress:
    """A Rich bar on stderr, so that a program's own output stays clean."""

    def __init__(self, label: str, job: str = "") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._label = label
        self._job = job
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(_BAR_WIDTH),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, markup=False, highlight=False),
        )
        self._task = self._bar.add_task(label, total=None)

    def __enter__(self) -> Self:
        if self._job:
            self._bar.console.print(self._job, soft_wrap=True)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int, note: str = "") -> None:
        """Move the bar; Rich draws it on its own clock."""
        text = f"{self._label} {note}".strip()
        self._bar.update(self._task, description=text, completed=done, total=total or None)


class NotebookProgress:
    """One line of a notebook cell that is updated in place; needs no widget package."""

    def __init__(self, label: str, display: Callable[..., Any]) -> None:
        self._label = label
        self._display = display
        self._handle: Any = None
        self._last_at = -REFRESH_S
        self._latest = (0, 0, "")

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()

    def show(self, done: int, total: int, note: str = "") -> None:
        """Update the line, at most five times a second."""
        self._latest = (done, total, note)
        if monotonic() - self._last_at >= REFRESH_S:
            self._draw()

    def _draw(self) -> None:
        self._last_at = monotonic()
        bundle = _text_bundle(bar_text(self._label, *self._latest))
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def bar_text(label: str, done: int, total: int, note: str = "") -> str:
    """The progress as one line of text."""
    if not total:
        return f"{label} … {note}".rstrip()
    filled = round(_BAR_WIDTH * min(done, total) / total)
    bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
    return f"{label} {bar} {done:,} / {total:,} {note}".rstrip()


def _text_bundle(text: str) -> dict[str, str]:
    return {"text/plain": text}


def _notebook_display() -> Callable[..., Any] | None:
    """IPython's `display` if a notebook kernel runs us; IPython is never imported for it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from importlib import import_module

    display: Callable[..., Any] = import_module("IPython.display").display
    return display
