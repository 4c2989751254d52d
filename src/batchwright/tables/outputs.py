"""Results to the output: the input's table with our columns, or the result lines.

The output is either the old one or the whole new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.engine.results import Stretch
from batchwright.replacing import replacing
from batchwright.tables.answers import RowResult
from batchwright.tables.polars_extra import require_polars
from batchwright.tables.table import Table

if TYPE_CHECKING:
    import polars as pl

_FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_WRITE_BYTES = 2**18
_ROW_GROUP_BYTES = 32 * 2**20
_ROW_GROUP_ROWS = 122_880


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """Where the results of rows go. Made by `plan_output`, which checks it."""

    path: Path
    format: str  # csv, tsv, jsonl or parquet
    answer: str  # the name of our first column; it holds vectors if `is_embedding`
    tokens: str
    error: str
    is_embedding: bool
    copied_from: str | None = None  # only where rows that ask the same are sent once

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of our columns, in order."""
        ours = (self.answer, self.tokens, self.error)
        return ours if self.copied_from is None else (*ours, self.copied_from)


@dataclass(frozen=True, slots=True)
class LinesWritten:
    """How many lines went to the output and to the error file beside it."""

    completed: int
    failed: int
    error_path: Path | None  # None if nothing failed: then there is no error file


def plan_output(
    path: str | Path,
    columns: Sequence[str],
    *,
    is_embedding: bool = False,
    is_deduped: bool = False,
    prefix: str = "",
    source: Path | None = None,
) -> OutputPlan:
    """Check where the results of a table with these columns would go.

    To be called before anything is sent. Raises `UsageError` for an unknown extension, a
    directory that is not there, an output that is the input (`source`), or a column that has
    the name of one of ours.
    """
    path = Path(path)
    file_format = _format_of(path)
    if file_format == "parquet":
        require_polars()
    _require_place(path, source)
    plan = OutputPlan(
        path=path,
        format=file_format,
        answer=prefix + ("embedding" if is_embedding else "answer"),
        tokens=prefix + "tokens",
        error=prefix + "error",
        is_embedding=is_embedding,
        copied_from=prefix + "copied_from" if is_deduped else None,
    )
    for name in plan.columns:
        if name in columns:
            hint = "use another --prefix" if prefix else "use --prefix, as in --prefix ai_"
            raise UsageError(f'the input has a column "{name}" already; {hint}', param="prefix")
    return plan


def plan_result_lines(path: str | Path, *, source: Path | None = None) -> Path:
    """Check where the results of a batch-form input would go.

    To be called before anything is sent. Raises `UsageError` unless it is JSONL, in a
    directory that is there, and neither file is the input (`source`).
    """
    path = Path(path)
    if _FORMATS.get(path.suffix.lower()) != "jsonl":
        raise UsageError(
            f"{path}: the results of batch requests are lines of JSON; "
            f"name the output {path.with_suffix('.jsonl').name}"
        )
    _require_place(path, source)
    _require_place(error_path_of(path), source)
    return path


def write_output(table: Table, plan: OutputPlan, results: Iterable[RowResult]) -> int:
    """Write the table with its results; returns the number of rows.

    `results` has one for each row, in order; for Parquet they are taken on another thread.
    Raises `UsageError` if their numbers differ, as when the input has changed meanwhile, and
    then leaves the old output.
    """
    counted = _Counted(results)
    with replacing(plan.path) as temporary:
        _WRITERS[plan.format](table, plan, counted, temporary)
        require_no_more(counted)
    return counted.count


def write_result_lines(path: Path, results: Iterable[Stretch]) -> LinesWritten:
    """Write results to `path` and failures to `error_path_of(path)`, in the given order.

    An error file of an earlier run is removed if nothing failed in this one.
    """
    error_path = error_path_of(path)
    completed = failed = 0
    with (
        replacing(path) as output,
        replacing(error_path) as errors,
        output.open("wb", _WRITE_BYTES) as good,
        errors.open("wb", _WRITE_BYTES) as bad,
    ):
        for _, lines, text, is_error in results:
            if is_error:
                bad.write(text)
                failed += lines
            else:
                good.write(text)
                completed += lines
    if not failed:
        error_path.unlink()
    return LinesWritten(completed, failed, error_path if failed else None)


def error_path_of(path: Path) -> Path:
    """`out.jsonl` → `out.errors.jsonl`."""
    return path.with_name(f"{path.stem}.errors{path.suffix}")


def output_frames(
    table: Table, plan: OutputPlan, results: Iterable[RowResult]
) -> Iterator[pl.DataFrame]:
    """The table with its results, in frames of a few megabytes, each of `output_schema`."""
    polars = require_polars()
    schema = output_schema(table, plan)
    remaining = iter(results)
    for frame in table.frames():
        for part in _parts(frame, plan):
            rows = [_values_of(_next(remaining), plan) for _ in range(part.height)]
            ours = list(zip(*rows, strict=True)) or [()] * len(plan.columns)
            yield part.with_columns(
                polars.Series(name, values, dtype=schema[name], strict=False)
                for name, values in zip(plan.columns, ours, strict=True)
            )


def output_schema(table: Table, plan: OutputPlan) -> pl.Schema:
    """The types of the table's columns and of ours."""
    polars = require_polars()
    answer = polars.List(polars.Float32) if plan.is_embedding else polars.String
    types = (answer, polars.Int64, polars.String, polars.Int64)
    ours = dict(zip(plan.columns, types, strict=False))
    schema: pl.Schema = polars.Schema({**table.schema(), **ours})
    return schema


def _format_of(path: Path) -> str:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{path}: the extension of the output says its form; "
            "it is one of .csv, .tsv, .jsonl or .parquet"
        ) from None


def _require_place(path: Path, source: Path | None) -> None:
    if source is not None and path.resolve() == source.resolve():
        raise UsageError(f"{path} is the input; give the output another name")
    if path.is_dir():
        raise UsageError(f"{path} is a directory; the name of a file is expected")
    folder = path.resolve().parent  # that of the file, where the output is a link to one
    if not folder.is_dir():
        shown = folder if path.is_symlink() else path.parent
        raise UsageError(f"the directory {shown} of the output does not exist")


class _Counted:
    """The results as they are taken."""

    def __init__(self, results: Iterable[RowResult]) -> None:
        self._results = iter(results)
        self.count = 0

    def __iter__(self) -> Iterator[RowResult]:
        return self

    def __next__(self) -> RowResult:
        result = next(self._results)
        self.count += 1
        return result


def require_no_more(results: Iterator[RowResult]) -> None:
    """Take the results to their end. Raises `UsageError` if there is one that no row took."""
    if next(results, None) is not None:
        raise UsageError("there are more results than rows: has the input changed?")


def _next(results: Iterator[RowResult]) -> RowResult:
    result = next(results, None)
    if result is None:
        raise UsageError("there are fewer results than rows: has the input changed?")
    return result


def _write_csv(table: Table, plan: OutputPlan, results: Iterator[RowResult], path: Path) -> None:
    separator = "\t" if plan.format == "tsv" else ","
    line_of = _csv_line(separator)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(line_of((*table.header, *plan.columns)))
        for cells in table.texts(table.columns):
            file.write(line_of((*cells, *_cells_of(_next(results), plan))))


def _csv_line(separator: str) -> Callable[[Sequence[str | None]], str]:
    # Not csv.writer: before Python 3.13 it leaves a cell with a lone carriage return unquoted.
    needs_quotes = re.compile(f'[{re.escape(separator)}"\r\n]').search

    def quoted(cell: str | None) -> str:
        if not cell:
            return ""
        return '"' + cell.replace('"', '""') + '"' if needs_quotes(cell) else cell

    def line_of(cells: Sequence[str | None]) -> str:
        return separator.join([quoted(cell) for cell in cells]) + "\n"

    return line_of


def _cells_of(result: RowResult, plan: OutputPlan) -> Iterator[str | None]:
    for value in _values_of(result, plan):
        yield value if value is None or isinstance(value, str) else _json(value).decode()


def _write_jsonl(table: Table, plan: OutputPlan, results: Iterator[RowResult], path: Path) -> None:
    names = [_json(name) for name in plan.columns]
    with path.open("wb") as file:
        for row in table.objects():
            values = _values_of(_next(results), plan)
            ours = [b"%b:%b" % (n, _json(value)) for n, value in zip(names, values, strict=True)]
            file.write(_open_object(row) + b",".join(ours) + b"}\n")


_json = msgspec.json.Encoder().encode


def _open_object(row: bytes) -> bytes:
    """A JSON object without its closing brace, ready for another field."""
    start = row[:-1].rstrip()
    return start if start == b"{" else start + b","


def _write_parquet(
    table: Table, plan: OutputPlan, results: Iterator[RowResult], path: Path
) -> None:
    from polars.io.plugins import register_io_source

    frames = output_frames(table, plan, results)
    first = next(frames, None)

    def source(*_: object) -> Iterator[pl.DataFrame]:
        return frames if first is None else chain([first], frames)

    lazy = register_io_source(source, schema=output_schema(table, plan))
    lazy.sink_parquet(path, row_group_size=_row_group_rows(first))


def _row_group_rows(frame: pl.DataFrame | None) -> int:
    """Rows of a group, which is held in memory whole, by the size of the first rows."""
    if frame is None:
        return _ROW_GROUP_ROWS
    row_bytes = max(1, int(frame.estimated_size()) // frame.height)
    return min(max(_ROW_GROUP_BYTES // row_bytes, 1), _ROW_GROUP_ROWS)


def _parts(frame: pl.DataFrame, plan: OutputPlan) -> Iterator[pl.DataFrame]:
    """Smaller frames for vectors: a list of Python floats takes eight times their size."""
    return frame.iter_slices(256 if plan.is_embedding else 4096)


def _values_of(result: RowResult, plan: OutputPlan) -> tuple[object, ...]:
    """What stands in our columns."""
    answer = result.embedding if plan.is_embedding else result.answer
    ours = (answer, result.tokens, result.error)
    return ours if plan.copied_from is None else (*ours, result.copied_from)


_WRITERS: dict[str, Callable[[Table, OutputPlan, Iterator[RowResult], Path], None]] = {
    "csv": _write_csv,
    "tsv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
