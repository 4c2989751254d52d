"""The priority of a batch: its share among the batches of its tenant."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Priority(StrEnum):
    """How urgent a batch is to its owner, spelled as on the wire."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"

    @property
    def weight(self) -> float:
        """The share of a batch where several of one tenant want the same lane."""
        return WEIGHTS[self]


WEIGHTS: Mapping[Priority, float] = {Priority.LOW: 1.0, Priority.NORMAL: 4.0, Priority.HIGH: 16.0}
