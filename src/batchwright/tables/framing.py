"""Rows gathered into Polars frames of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from batchwright.tables.polars_extra import require_polars

if TYPE_CHECKING:
    import polars as pl

ROWS_MAX = 1024
SIZE_BYTES_MAX = 4 * 2**20

T = TypeVar("T")


def chunks(
    rows: Iterable[T],
    size_of: Callable[[T], int],
    *,
    rows_max: int = ROWS_MAX,
    size_bytes_max: int = SIZE_BYTES_MAX,
) -> Iterator[list[T]]:
    """Rows in lists that end at `rows_max` rows or at the row that passes `size_bytes_max`."""
    chunk: list[T] = []
    size_bytes = 0
    for row in rows:
        chunk.append(row)
        size_bytes += size_of(row)
        if len(chunk) >= rows_max or size_bytes >= size_bytes_max:
            yield chunk
            chunk, size_bytes = [], 0
    if chunk:
        yield chunk


def frames_of_texts(
    rows: Iterable[Sequence[str | None]], schema: pl.Schema
) -> Iterator[pl.DataFrame]:
    """Rows of text cells as frames."""
    polars = require_polars()
    for chunk in chunks(rows, lambda row: sum(len(cell or "") for cell in row)):
        columns = zip(schema, zip(*chunk, strict=True), strict=True)
        yield polars.DataFrame({name: list(cells) for name, cells in columns}, schema=schema)
