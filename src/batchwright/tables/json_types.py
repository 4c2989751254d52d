"""The type of a column of JSON values, found from all of them.

A whole number that a float cannot hold is `long`: it goes with other whole numbers, but not with
fractions.
A type is None (only nulls so far), the name of a scalar, `("list", type)`, or a dictionary of
fields. Values that share no type make their column `text`: each value as its JSON text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from batchwright.tables.polars_extra import require_polars

if TYPE_CHECKING:
    from polars._typing import PolarsDataType

JsonType: TypeAlias = "str | tuple[str, JsonType] | dict[str, JsonType] | None"

_INT64 = range(-(2**63), 2**63)
_EXACT = range(-(2**53), 2**53 + 1)  # the whole numbers that a float tells apart


class MixedTypes(Exception):
    """Two values have no type in common."""


def type_of(value: Any) -> JsonType:
    """The type of one decoded value. Raises `MixedTypes`."""
    if value is None:
        return None
    if isinstance(value, str):
        return "str"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if value not in _INT64:
            raise MixedTypes
        return "int" if value in _EXACT else "long"
    if isinstance(value, float):
        return "float"
    if isinstance(value, list):
        return ("list", _type_of_items(value))
    if not value:
        raise MixedTypes  # Parquet has no object without fields
    return {name: type_of(item) for name, item in value.items()}


def _type_of_items(items: list[Any]) -> JsonType:
    kind: JsonType = None
    for item in items:
        kind = merge(kind, type_of(item))
    return kind


def merge(a: JsonType, b: JsonType) -> JsonType:
    """The narrowest type that holds values of both. Raises `MixedTypes`."""
    if a == b or b is None:
        return a
    if a is None:
        return b
    if isinstance(a, dict) and isinstance(b, dict):
        return {name: merge(a.get(name), b.get(name)) for name in a | b}
    if isinstance(a, tuple) and isinstance(b, tuple):
        return ("list", merge(a[1], b[1]))
    if isinstance(a, str) and isinstance(b, str) and "int" in (a, b):
        other = b if a == "int" else a
        if other in ("float", "long"):
            return other
    raise MixedTypes


def polars_type(kind: JsonType) -> PolarsDataType:
    """The Polars type of a column; one that is always null is a column of text."""
    polars = require_polars()
    scalars = {
        "bool": polars.Boolean,
        "int": polars.Int64,
        "long": polars.Int64,
        "float": polars.Float64,
    }
    if isinstance(kind, dict):
        struct: PolarsDataType = polars.Struct({n: polars_type(k) for n, k in kind.items()})
        return struct
    if isinstance(kind, tuple):
        items: PolarsDataType = polars.List(polars_type(kind[1]))
        return items
    scalar: PolarsDataType = scalars.get(kind or "", polars.String)
    return scalar
