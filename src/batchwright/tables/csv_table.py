"""CSV as text: every cell keeps its value.

Accepted beside RFC 4180: other separators, a quote inside an unquoted cell (`5" pipe`), rows
that are short (the rest is null) or that end in empty cells too many; blank lines are skipped.
A quote that is never closed and a row with too many values are errors: guessing there would
shift cells or swallow the rest of the file.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.tables.framing import frames_of_texts
from batchwright.tables.inputs import LINE_BYTES_MAX
from batchwright.tables.polars_extra import require_polars

if TYPE_CHECKING:
    import polars as pl

Row = tuple[str | None, ...]


class CsvTable:
    """A CSV or TSV file with a header line."""

    def __init__(self, path: Path, *, separator: str = ",", limit: int | None = None) -> None:
        self._path = path
        self._separator = separator
        self._limit = limit
        self.header: tuple[str, ...] = self._read_header()
        self.columns: tuple[str, ...] = self._name_columns()

    def texts(self, columns: Sequence[str]) -> Iterator[Row]:
        positions = [self.columns.index(name) for name in columns]
        for row in self._rows():
            yield tuple([row[position] for position in positions])

    def objects(self) -> Iterator[bytes]:
        encode = msgspec.json.Encoder().encode
        for row in self._rows():
            yield encode(dict(zip(self.columns, row, strict=True)))

    def schema(self) -> pl.Schema:
        polars = require_polars()
        schema: pl.Schema = polars.Schema(dict.fromkeys(self.columns, polars.String))
        return schema

    def frames(self) -> Iterator[pl.DataFrame]:
        return frames_of_texts(self._rows(), self.schema())

    def _rows(self) -> Iterator[Row]:
        return islice(self._all_rows(), self._limit)

    def _all_rows(self) -> Iterator[Row]:
        width = len(self.columns)
        records = self._records()
        next(records, None)
        for line, record in records:
            if len(record) == width:
                yield tuple(record)
            else:
                yield self._fit(record, line)

    def _fit(self, record: list[str], line: int) -> Row:
        width = len(self.columns)
        if len(record) < width:
            return (*record, *([None] * (width - len(record))))
        if any(record[width:]):
            raise UsageError(
                f"{self._path}: the row that ends at line {line} has {len(record)} values, "
                f"but the header names {width} columns: is a cell with a "
                f"{_spoken(self._separator)} not quoted?"
            )
        return tuple(record[:width])

    def _read_header(self) -> tuple[str, ...]:
        for _, record in self._records():
            return tuple(record)
        raise UsageError(f"{self._path} is empty")

    def _name_columns(self) -> tuple[str, ...]:
        """The names of the header; a column without one is called by its place."""
        names = [name or f"column_{n}" for n, name in enumerate(self.header, start=1)]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UsageError(
                f'{self._path}: the header names the column "{twice[0]}" more than once: '
                "give each column its own name"
            )
        return tuple(names)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Each record with the number of the line that it ends on."""
        # The limit is the module's, not the reader's; raising it takes nothing from others.
        csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES_MAX))
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self._separator, strict=True)
            started = 1  # the line that the record under way began on
            is_begun = False  # before the header a line of blanks is no record either
            try:
                for record in reader:
                    is_begun = is_begun or not _is_blank(record, self._separator)
                    if record and is_begun:
                        yield reader.line_num, record
                    started = reader.line_num + 1
            except csv.Error as exc:
                raise UsageError(self._explain(exc, started)) from exc
            except UnicodeDecodeError as exc:
                raise UsageError(_explain_encoding(self._path)) from exc

    def _explain(self, exc: csv.Error, line: int) -> str:
        text = str(exc)
        if "unexpected end" in text or "field limit" in text:
            return f"{self._path}: the row at line {line} opens a quote that is never closed"
        if "expected after" in text:
            return (
                f"{self._path}: the row at line {line} has text after a closing quote; "
                'a quote inside a quoted cell is written ""'
            )
        return f"{self._path}: the row at line {line} is not CSV: {text}"


def _is_blank(record: list[str], separator: str) -> bool:
    """Whether the line of this record shows nothing."""
    return not separator.join(record).strip()


def _explain_encoding(path: Path) -> str:
    where = ""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                where = f" in line {number}"
                break
    return (
        f"{path}: not UTF-8{where}: save it as CSV UTF-8, or "
        f"iconv -f WINDOWS-1252 -t UTF-8 {path} > converted{path.suffix}"
    )


def _spoken(separator: str) -> str:
    names = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
    return names.get(separator, f'"{separator}"')
