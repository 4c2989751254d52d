"""Rows of the tables and values of the domain, both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, Table

from batchwright.domain.batch import Batch, Closing, Counts, Status
from batchwright.domain.batch_error import BatchError
from batchwright.domain.file import Extent, File
from batchwright.domain.key import Key
from batchwright.domain.priority import Priority
from batchwright.domain.segment import Segment, SegmentLengths
from batchwright.domain.upload import Part, Upload
from batchwright.store import schema
from batchwright.store.base import Idempotency

Values = dict[str, Any]
AnyRow = Row[*tuple[Any, ...]]


def columns_of(value_type: type, table: Table) -> Sequence[ColumnElement[Any]]:
    """The columns of a table in the order of a value's fields, so that a row makes the value."""
    return [table.c[field.name] for field in fields(value_type)]


FILE = columns_of(File, schema.files)
UPLOAD = columns_of(Upload, schema.uploads)
PART = columns_of(Part, schema.parts)
KEY = columns_of(Key, schema.keys)
EXTENT = columns_of(Extent, schema.extents)

_PLAIN = [field.name for field in fields(Batch) if field.name in schema.batches.c]


def values_of(value: File | Upload | Part | Key | Idempotency) -> Values:
    """The row of a value whose fields are columns."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def extent_rows(file_id: str, extents: Sequence[Extent]) -> list[Values]:
    return [
        {
            "file_id": file_id,
            "position": position,
            "key": extent.key,
            "offset": extent.offset,
            "length": extent.length,
        }
        for position, extent in enumerate(extents)
    ]


def batch_values(batch: Batch) -> Values:
    """The row of a batch: its fields, the counts spread, the nested values as JSON."""
    plain = {name: getattr(batch, name) for name in _PLAIN}
    return plain | {
        "status": batch.status.value,
        "errors": msgspec.to_builtins(batch.errors),
        "closing": msgspec.to_builtins(batch.closing),
        "metadata": None if batch.metadata is None else dict(batch.metadata),
        "options": dict(batch.options),
        "priority": batch.priority.value,
        "count_total": batch.counts.total,
        "count_completed": batch.counts.completed,
        "count_failed": batch.counts.failed,
    }


def batch_of(row: AnyRow) -> Batch:
    """The batch of a row with all columns of its table."""
    values = row._mapping
    plain = {name: values[name] for name in _PLAIN}
    return Batch(
        **plain
        | {
            "status": Status(values["status"]),
            "priority": Priority(values["priority"]),
            "errors": msgspec.convert(values["errors"], tuple[BatchError, ...]),
            "closing": msgspec.convert(values["closing"], Closing),
            "counts": Counts(
                values["count_total"], values["count_completed"], values["count_failed"]
            ),
        }
    )


def segment_of(row: AnyRow) -> Segment:
    """The segment of a row with all columns of its table."""
    batch_id, epoch, output, error, account = row
    lengths = None if output is None else SegmentLengths(output, error, account)
    return Segment(batch_id, epoch, lengths)


def length_values(lengths: SegmentLengths) -> Values:
    return {
        "output_bytes": lengths.output,
        "error_bytes": lengths.error,
        "account_bytes": lengths.account,
    }
