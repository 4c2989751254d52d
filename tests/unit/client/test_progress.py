from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from batchwright.client.progress import (
    NotebookProgress,
    SilentProgress,
    TerminalProgress,
    bar_text,
    open_progress,
)


class Handle:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, bundle: dict[str, str], **_: Any) -> None:
        self.texts.append(bundle["text/plain"])


def test_nothing_is_shown_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with open_progress("job") as bar:
        bar.show(1, 2)

    assert isinstance(bar, SilentProgress)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress("job", wanted=True) as bar:
        bar.show(3, 4, "1 failed")

    assert isinstance(bar, TerminalProgress)
    shown = capsys.readouterr()
    assert "3/4" in shown.err
    assert shown.out == ""


def test_in_80_columns_the_job_stands_above_and_the_bar_says_state_and_total(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    job = ",".join(f"batch_{'0' * 32}{number}" for number in range(3))

    with open_progress("", wanted=True, job=job) as bar:
        bar.show(48_000, 50_000, "in_progress · 1,432 failed")

    first, *rest = capsys.readouterr().err.splitlines()
    assert first == job
    assert all("in_progress · 1,432 failed" in line for line in rest)
    assert all("48000/50000" in line for line in rest)


def test_a_notebook_gets_a_line_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Handle()
    ipython: Any = ModuleType("IPython")
    shell = type("ZMQInteractiveShell", (), {})()
    ipython.get_ipython = lambda: shell
    display = SimpleNamespace(display=lambda bundle, **_: handle)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)

    with open_progress("", job="batch_1") as bar:
        bar.show(1, 2)
        bar.show(2, 2, "done")

    assert isinstance(bar, NotebookProgress)
    assert handle.texts[-1] == bar_text("batch_1", 2, 2, "done")


def test_the_line_says_how_far_it_is() -> None:
    assert bar_text("job", 0, 0) == "job …"
    assert bar_text("job", 5000, 10000, "2 failed").endswith("5,000 / 10,000 2 failed")
