"""Polars, which is an extra: loaded only when a table needs it."""

from __future__ import annotations

from types import ModuleType

from batchwright.domain.errors import UsageError


def require_polars() -> ModuleType:
    """The `polars` module. Raises `UsageError` naming the extra where it is not installed."""
    try:
        import polars
    except ImportError:
        raise UsageError(
            'Parquet files and data frames need Polars: pip install "batchwright[tables]"'
        ) from None
    return polars
