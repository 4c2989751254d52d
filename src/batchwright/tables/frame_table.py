"""Rows of a Parquet file or a data frame, read by Polars slice by slice.

Slices, not `collect_batches`: that one reads ahead without a bound that we can set.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchwright.domain.errors import UsageError
from batchwright.tables.polars_extra import require_polars

if TYPE_CHECKING:
    import polars as pl

_FIRST_ROWS = 64  # few, since the size of a row is not known yet
_ROWS_MAX = 16_384
_SLICE_BYTES = 16 * 2**20


class FrameTable:
    """A Polars frame, lazy or not."""

    def __init__(
        self, frame: pl.LazyFrame | pl.DataFrame, *, source: str, limit: int | None = None
    ) -> None:
        self._polars = require_polars()
        self._source = source
        lazy = frame.lazy()
        self._frame: pl.LazyFrame = lazy if limit is None else lazy.head(limit)
        self._schema = self._read_schema()
        self.columns: tuple[str, ...] = tuple(self._schema)
        self.header = self.columns

    def texts(self, columns: Sequence[str]) -> Iterator[tuple[str | None, ...]]:
        if not columns:
            for frame in self._slices(self._frame):
                yield from [()] * frame.height
            return
        for frame in self._slices(self._frame.select(columns)):
            cells = [self._texts_of(frame[name]) for name in columns]
            yield from zip(*cells, strict=True)

    def objects(self) -> Iterator[bytes]:
        for frame in self._slices(self._frame):
            yield from self._objects_of(frame)

    def schema(self) -> pl.Schema:
        return self._schema

    def frames(self) -> Iterator[pl.DataFrame]:
        return self._slices(self._frame)

    def _read_schema(self) -> pl.Schema:
        try:
            return self._frame.collect_schema()
        except (self._polars.exceptions.PolarsError, OSError) as exc:
            raise UsageError(f"{self._source} cannot be read: {exc}") from exc

    def _slices(self, lazy: pl.LazyFrame) -> Iterator[pl.DataFrame]:
        """Slices of about `_SLICE_BYTES`, by the size of a row in the slice before."""
        start, count = 0, _FIRST_ROWS
        while True:
            try:
                frame = lazy.slice(start, count).collect()
            except (self._polars.exceptions.PolarsError, OSError) as exc:
                raise UsageError(f"{self._source} cannot be read: {exc}") from exc
            if frame.height == 0:
                return
            yield frame
            start += frame.height
            row_bytes = max(1, int(frame.estimated_size()) // frame.height)
            count = min(max(_SLICE_BYTES // row_bytes, 1), _ROWS_MAX)

    def _texts_of(self, series: pl.Series) -> list[str | None]:
        polars = self._polars
        if series.dtype.is_nested() or series.dtype == polars.Duration:
            return self._json_texts_of(series)
        if series.dtype == polars.Binary:
            return [None if value is None else _binary_text(value) for value in series.to_list()]
        try:
            texts: list[str | None] = series.cast(polars.String).to_list()
        except polars.exceptions.PolarsError as exc:
            raise self._no_text(series.name, series.dtype) from exc
        return texts

    def _json_texts_of(self, series: pl.Series) -> list[str | None]:
        """JSON text as Polars writes it, so that 32-bit floats keep their short form."""
        self._refuse_unwritable(series)
        lines = series.rename("v").to_frame().write_ndjson().split("\n")[: len(series)]
        values = [line.removeprefix('{"v":').removesuffix("}") for line in lines]
        if series.dtype == self._polars.Duration:
            return [json.loads(value) for value in values]
        return [None if value == "null" else value for value in values]

    def _objects_of(self, frame: pl.DataFrame) -> list[bytes]:
        polars = self._polars
        for series in frame:
            if series.dtype == polars.Binary:
                texts = polars.Series(series.name, self._texts_of(series), dtype=polars.String)
                frame = frame.with_columns(texts)
            else:
                self._refuse_unwritable(series)
        if not frame.width:
            return [b"{}"] * frame.height
        return frame.write_ndjson().encode().split(b"\n")[: frame.height]

    def _refuse_unwritable(self, series: pl.Series) -> None:
        """Polars panics on bytes inside nested values and on Python objects."""
        if _holds(series.dtype, (self._polars.Binary, self._polars.Object)):
            raise self._no_text(series.name, series.dtype)

    def _no_text(self, name: str, dtype: Any) -> UsageError:
        return UsageError(
            f'{self._source}: the column "{name}" is of type {dtype}, which has no text form: '
            "leave the column out or convert it"
        )


def scan_parquet(path: Path) -> pl.LazyFrame:
    """A Parquet file, unread; its name is taken as it is (no wildcards)."""
    polars = require_polars()
    frame: pl.LazyFrame = polars.scan_parquet(path, glob=False, hive_partitioning=False)
    return frame


def _binary_text(value: bytes) -> str:
    """Bytes as UTF-8 where they are, else as base64."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _holds(dtype: Any, unwanted: tuple[Any, ...]) -> bool:
    fields = getattr(dtype, "fields", None)
    if fields is not None:
        return any(_holds(field.dtype, unwanted) for field in fields)
    inner = getattr(dtype, "inner", None)
    return _holds(inner, unwanted) if inner is not None else dtype in unwanted
