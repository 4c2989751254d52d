"""What reaches the terminal."""

from __future__ import annotations

import pytest

from batchwright.cli.terminal import (
    plain,
    say_table,
    shown_bytes,
    shown_cost,
    shown_count,
    shown_span,
    shown_time,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢字 😀", "plain é 漢字 😀"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202eevil\u2028", "\\u202eevil\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("span_s", "shown"), [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_a_span_is_shown_in_the_units_that_fit(span_s: float, shown: str) -> None:
    assert shown_span(span_s) == shown


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB")]
)
def test_a_size_is_shown_in_the_unit_that_fits(size: float, shown: str) -> None:
    assert shown_bytes(size) == shown


@pytest.mark.parametrize(
    ("cost_usd", "shown"),
    [
        (0, "$0"),
        (0.000021, "$0.000021"),
        (4e-9, "less than $0.000001"),
        (0.5, "$0.50"),
        (1234.5, "$1,234.50"),
        (None, "unknown (no price is known for the model)"),
    ],
)
def test_a_cost_is_shown_as_far_as_it_matters(cost_usd: float | None, shown: str) -> None:
    assert shown_cost(cost_usd) == shown


@pytest.mark.parametrize(("count", "shown"), [(0, "0 lines"), (1, "1 line"), (2000, "2,000 lines")])
def test_one_is_one(count: int, shown: str) -> None:
    assert shown_count(count, "line") == shown


def test_no_time_is_shown_as_a_dash() -> None:
    assert shown_time(None) == "-"


def test_a_row_of_a_table_is_a_line_in_a_narrow_terminal_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    say_table(("id", "status"), [("batch_" + "0" * 60, "completed"), ("batch_1", "failed")])

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["batch_" + "0" * 60, "completed"] in lines
    assert ["batch_1", "failed"] in lines
