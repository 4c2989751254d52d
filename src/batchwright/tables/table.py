"""A table: rows in a fixed order that can be read several times, in bounded memory.

CSV and JSONL are read by the standard library and msgspec, one row at a time: the memory is
that of one row, cells are never interpreted, and an error names its line.
(Polars reads ahead by hundreds of megabytes and refuses a stray quote without a line number.)
Parquet and data frames are read by Polars.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from batchwright.domain.errors import UsageError
from batchwright.tables.csv_table import CsvTable
from batchwright.tables.frame_table import FrameTable, scan_parquet
from batchwright.tables.inputs import InputForm
from batchwright.tables.jsonl_table import JsonlTable
from batchwright.tables.lines import read_lines

if TYPE_CHECKING:
    import polars as pl


class Table(Protocol):
    """Rows under named columns. Every method starts again at the first row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, each once, in order."""
        ...

    @property
    def header(self) -> tuple[str, ...]:
        """The same as the input spells them: a CSV file may leave names out."""
        ...

    def texts(self, columns: Sequence[str]) -> Iterator[tuple[str | None, ...]]:
        """The cells of these columns as text, row by row; None for null.

        Numbers are as the file has them; lists and objects are JSON text.
        """
        ...

    def objects(self) -> Iterator[bytes]:
        """Each row as one line of JSON, an object, without a line end."""
        ...

    def schema(self) -> pl.Schema:
        """The type of each column. Needs Polars."""
        ...

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows in frames of a few megabytes, each of `schema`. Needs Polars."""
        ...


def open_table(form: InputForm, *, limit: int | None = None) -> Table:
    """The rows of an input file, or the first `limit` of them.

    Raises `UsageError` if the file does not read as what its form says.
    """
    path = form.path
    if form.kind != "rows":
        raise UsageError(f"{path} holds batch requests, not rows")
    if form.format == "csv":
        return CsvTable(path, separator=form.separator, limit=limit)
    if form.format == "jsonl":
        return JsonlTable(lambda: read_lines(path), source=str(path), limit=limit)
    return FrameTable(scan_parquet(path), source=str(path), limit=limit)
