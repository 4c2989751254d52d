"""Rows as one JSON object per line.

Rows need not have the same keys: the columns are all keys in the order of their first
appearance, and a key that a row lacks is null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.tables.framing import chunks
from batchwright.tables.json_types import JsonType, MixedTypes, merge, polars_type, type_of
from batchwright.tables.polars_extra import require_polars

if TYPE_CHECKING:
    import polars as pl

COLUMNS_MAX = 10_000

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING = msgspec.json.Decoder(str)
_VALUE = msgspec.json.Decoder()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Lines = Callable[[], Iterator[tuple[int, bytes]]]


class JsonlTable:
    """JSON objects, read again from `lines` (number and bytes) for each pass.

    Opening reads them once: it checks every line and gathers the columns.
    """

    def __init__(self, lines: Lines, *, source: str, limit: int | None = None) -> None:
        self._lines = lines
        self._source = source
        self._limit = limit
        self._types: dict[str, JsonType] | None = None
        self.columns: tuple[str, ...] = self._scan()
        self.header = self.columns

    def texts(self, columns: Sequence[str]) -> Iterator[tuple[str | None, ...]]:
        for number, _, row in self._rows():
            try:
                yield tuple([_text(row.get(name)) for name in columns])
            except _UNREADABLE as exc:
                raise UsageError(f"{self._source}: line {number}: {exc}") from exc

    def objects(self) -> Iterator[bytes]:
        for _, line, _ in self._rows():
            yield line.strip()

    def schema(self) -> pl.Schema:
        polars = require_polars()
        types = self._infer()
        schema: pl.Schema = polars.Schema({name: polars_type(types[name]) for name in types})
        return schema

    def frames(self) -> Iterator[pl.DataFrame]:
        polars = require_polars()
        schema = self.schema()
        types = self._infer()
        for rows in chunks(self._rows(), lambda row: len(row[1])):
            yield polars.DataFrame(
                [
                    polars.Series(
                        name,
                        [_typed(row.get(name), types[name]) for _, _, row in rows],
                        dtype=dtype,
                        strict=False,  # whole numbers in a column of floats
                    )
                    for name, dtype in schema.items()
                ]
            )

    def _scan(self) -> tuple[str, ...]:
        columns: dict[str, None] = {}
        for number, line, row in self._rows():
            if not line.isascii():
                self._check_utf8(line, number)
            columns.update(dict.fromkeys(row))
            if len(columns) > COLUMNS_MAX:
                raise UsageError(
                    f"{self._source}: more than {COLUMNS_MAX:,} different keys by line {number}: "
                    "a row is an object whose keys are the columns"
                )
        return tuple(columns)

    def _check_utf8(self, line: bytes, number: int) -> None:
        try:
            line.decode()
        except UnicodeDecodeError as exc:
            raise UsageError(f"{self._source}: line {number} is not UTF-8: {exc}") from exc

    def _rows(self) -> Iterator[tuple[int, bytes, dict[str, msgspec.Raw]]]:
        for number, line in islice(self._lines(), self._limit):
            try:
                yield number, line, _OBJECT.decode(line)
            except _UNREADABLE as exc:
                raise UsageError(
                    f"{self._source}: line {number} is not a JSON object: {exc}"
                ) from exc

    def _infer(self) -> dict[str, JsonType]:
        if self._types is None:
            self._types = self._infer_types()
        return self._types

    def _infer_types(self) -> dict[str, JsonType]:
        types: dict[str, JsonType] = dict.fromkeys(self.columns)
        mixed: set[str] = set()
        for number, _, row in self._rows():
            for name, raw in row.items():
                if name in mixed:
                    continue
                try:
                    types[name] = merge(types[name], type_of(_VALUE.decode(raw)))
                except MixedTypes:
                    types[name] = "text"
                    mixed.add(name)
                except _UNREADABLE as exc:
                    raise UsageError(f"{self._source}: line {number}: {exc}") from exc
        return types


def record_table(records: Sequence[Mapping[str, Any]], *, limit: int | None = None) -> JsonlTable:
    """A table of dictionaries. Dates and the like become text, NaN becomes null."""

    def lines() -> Iterator[tuple[int, bytes]]:
        return _encoded(records)

    return JsonlTable(lines, source="the items", limit=limit)


def _encoded(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, bytes]]:
    encode = msgspec.json.Encoder(enc_hook=str).encode
    for number, record in enumerate(records, start=1):
        try:
            yield number, encode(record)
        except (TypeError, UnicodeEncodeError, OverflowError) as exc:
            raise UsageError(f"item {number} cannot be written as JSON: {exc}") from exc


def _text(raw: msgspec.Raw | None) -> str | None:
    if raw is None:
        return None
    value = bytes(raw)
    if value[:1] == b'"':
        return _STRING.decode(value)
    return None if value == b"null" else value.decode()


def _typed(raw: msgspec.Raw | None, kind: JsonType) -> Any:
    if raw is None:
        return None
    return _text(raw) if kind == "text" else _VALUE.decode(raw)
