"""What the library's `run()` takes and gives: data frames, dictionaries and strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from batchwright.domain.errors import UsageError
from batchwright.tables.answers import RowResult
from batchwright.tables.frame_table import FrameTable
from batchwright.tables.jsonl_table import record_table
from batchwright.tables.outputs import OutputPlan, output_frames, output_schema, require_no_more
from batchwright.tables.polars_extra import require_polars
from batchwright.tables.table import Table

if TYPE_CHECKING:
    import polars as pl

TEXT_COLUMN = "text"
"""The column that a list of strings becomes."""

Rows: TypeAlias = "pl.DataFrame | pl.LazyFrame | Sequence[Mapping[str, Any]] | Sequence[str] | Any"


def table_of(rows: Rows, *, limit: int | None = None) -> Table:
    """The table of a Polars or pandas frame, of dictionaries, or of strings (column `text`).

    Raises `UsageError` for anything else.
    """
    if isinstance(rows, (str, bytes, Path)):
        raise UsageError("a list of strings is expected, not a single one")
    frame: Any = rows  # told apart by module name, so that neither library is loaded for a list
    module = type(rows).__module__.partition(".")[0]
    if module == "polars":
        return FrameTable(frame, source="the frame", limit=limit)
    if module == "pandas":
        return FrameTable(_from_pandas(frame), source="the frame", limit=limit)
    if not isinstance(rows, Sequence):
        raise UsageError(
            "a Polars or pandas frame, a list of dictionaries or a list of strings is expected, "
            f"not {type(rows).__name__}"
        )
    return record_table(_records(rows), limit=limit)


def result_frame(table: Table, plan: OutputPlan, results: Iterable[RowResult]) -> pl.DataFrame:
    """The table with its results as one frame; `results` has one for each row, in order.

    Raises `UsageError` if their numbers differ.
    """
    polars = require_polars()
    taken = iter(results)
    frames = list(output_frames(table, plan, taken))
    require_no_more(taken)
    if not frames:
        return polars.DataFrame(schema=output_schema(table, plan))  # type: ignore[no-any-return]
    return polars.concat(frames)  # type: ignore[no-any-return]


def _records(rows: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    if all(isinstance(row, str) for row in rows):
        return [{TEXT_COLUMN: row} for row in rows]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise UsageError(
                f"item {number} is of type {type(row).__name__}; "
                "all items are dictionaries, or all are strings"
            )
        if not all(isinstance(name, str) for name in row):
            raise UsageError(f"item {number} has a key that is not a string")
    return rows


def _from_pandas(frame: Any) -> pl.DataFrame:
    """Column by column, so that it needs no pyarrow. Missing values become null."""
    polars = require_polars()
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise UsageError("the frame has two columns of one name: give each its own")
    columns = [
        _from_pandas_column(name, frame.iloc[:, position]) for position, name in enumerate(names)
    ]
    return polars.DataFrame(columns)  # type: ignore[no-any-return]


def _from_pandas_column(name: str, series: Any) -> pl.Series:
    polars = require_polars()
    # NumPy's own types alone: pandas' nullable integers would come out as floats.
    if type(series.dtype).__module__.startswith("numpy") and series.dtype.kind in "biufmM":
        return polars.Series(name, series.to_numpy(), nan_to_null=True)  # type: ignore[no-any-return]
    values = [
        None if missing else value
        for value, missing in zip(series.tolist(), _missing(series), strict=True)
    ]
    try:
        return polars.Series(name, values)  # type: ignore[no-any-return]
    except (TypeError, ValueError, polars.exceptions.PolarsError):
        texts = [None if value is None else str(value) for value in values]
        return polars.Series(name, texts, dtype=polars.String)  # type: ignore[no-any-return]


def _missing(series: Any) -> list[bool]:
    missing: list[bool] = series.isna().tolist()
    return missing
