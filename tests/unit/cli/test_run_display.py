"""What a run shows of its progress where there is no terminal."""

from __future__ import annotations

import pytest

from batchwright.cli.run_display import LineDisplay
from batchwright.local.progress import Snapshot


def test_a_line_has_counts_rates_the_time_left_and_what_holds_it_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    LineDisplay().show(
        Snapshot(
            phase="running",
            total=2000,
            completed=990,
            failed=10,
            calls_per_s=12.4,
            tokens_per_s=3.25,
            left_s=80,
            holds_back="acme: 50 calls in flight",
        )
    )

    assert capsys.readouterr().err == (
        "running: 1,000 of 2,000, 10 failed, 12 calls/s, 3.2 tokens/s, 1 min 20 s left "
        "(acme: 50 calls in flight)\n"
    )


def test_a_line_is_written_at_each_step_and_then_now_and_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = LineDisplay()
    for phase in ("preparing", "validating", "validating", "running", "running"):
        display.show(Snapshot(phase=phase, total=3 if phase == "running" else 0))

    assert capsys.readouterr().err == (
        "preparing\nchecking the requests\nrunning: 0 of 3, 0.0 calls/s, 0.0 tokens/s\n"
    )
