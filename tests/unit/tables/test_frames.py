from __future__ import annotations

import datetime
import json
import sys
from typing import Any

import pandas as pd
import polars as pl
import pytest

from batchwright.domain.errors import UsageError
from batchwright.tables import (
    RequestPlan,
    RowResult,
    plan_output,
    request_lines,
    result_frame,
    table_of,
)
from batchwright.tables.polars_extra import require_polars


def contents(rows: Any, template: str) -> list[str]:
    lines = request_lines(table_of(rows), RequestPlan(model="m", prompt=template))
    return [json.loads(line)["body"]["messages"][0]["content"] for line in lines]


def test_every_kind_of_rows_gives_the_same_requests() -> None:
    records = [{"t": "é", "n": 1}, {"t": None, "n": 2}]
    frame = pl.DataFrame(records)

    for rows in (records, frame, frame.lazy(), pd.DataFrame(records)):
        assert contents(rows, "{t}:{n}") == ["é:1", ":2"]


def test_strings_are_a_column_of_text() -> None:
    assert contents(["a", "b"], "{text}") == ["a", "b"]


def test_dictionaries_may_differ_and_hold_dates() -> None:
    rows = [{"a": [1, {"b": 2}]}, {"c": datetime.date(2024, 1, 2), "a": float("nan")}]

    assert contents(rows, "{a}|{c}") == ['[1,{"b":2}]|', "|2024-01-02"]


def test_pandas_columns_of_every_kind_are_taken() -> None:
    frame = pd.DataFrame(
        {
            "f": [1.5, None],
            "o": [[1], None],
            "mixed": [1, "x"],
            "c": pd.Categorical(["k", None]),
            "d": pd.to_datetime(["2024-01-02", None]),
            "i": pd.array([1, None], dtype="Int64"),
            7: ["seven", None],
        }
    )

    first, second = contents(frame, "{f}|{o}|{mixed}|{c}|{d}|{i}|{7}")

    assert first.startswith("1.5|[1]|1|k|2024-01-02 00:00:00")
    assert first.endswith("|1|seven")
    assert second == "||x||||"


def test_results_join_the_rows_in_one_frame() -> None:
    table = table_of([{"a": 1}, {"a": 2}])
    plan = plan_output("unused.jsonl", table.columns)

    frame = result_frame(table, plan, [RowResult("x", tokens=1), RowResult(error="e")])

    assert frame.rows() == [(1, "x", 1, None), (2, None, None, "e")]


def test_another_number_of_results_than_rows_is_refused() -> None:
    table = table_of([{"a": 1}])
    plan = plan_output("unused.jsonl", table.columns)

    for results in ([], [RowResult("x"), RowResult("y")]):
        with pytest.raises(UsageError, match="has the input changed"):
            result_frame(table, plan, results)


def test_no_rows_give_an_empty_frame() -> None:
    table = table_of(pl.DataFrame(schema={"a": pl.Int64}))

    frame = result_frame(table, plan_output("unused.jsonl", table.columns), [])

    assert frame.schema == {
        "a": pl.Int64,
        "answer": pl.String,
        "tokens": pl.Int64,
        "error": pl.String,
    }


def test_a_limit_takes_the_first_rows() -> None:
    for rows in (["a", "b", "c"], pl.DataFrame({"text": ["a", "b", "c"]})):
        assert list(table_of(rows, limit=2).texts(["text"])) == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("one string", "list of strings"),
        ([{"a": 1}, "x"], "item 2 is of type str"),
        ([{1: 2}], "item 1 has a key"),
        ([{"a": "\ud800"}], "item 1 cannot be written as JSON"),
        (7, "not int"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns of one name"),
    ],
)
def test_rows_of_another_kind_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        table_of(rows)


def test_without_polars_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)

    with pytest.raises(UsageError, match=r'pip install "batchwright\[tables\]"'):
        require_polars()
