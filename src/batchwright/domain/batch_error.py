"""What is wrong with an input file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchError:
    """One entry of `batch.errors.data` (schema `BatchError` of the OpenAI API)."""

    code: str
    message: str
    param: str | None = None  # the field, as a path: `body.model`
    line: int | None = None  # 1-based; None where the whole file is meant
