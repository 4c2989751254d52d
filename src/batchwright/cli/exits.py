"""The exit codes of every command."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """What a script is told."""

    OK = 0  # done; of a batch: every request was answered
    FAILED = 1  # the command could not do what it was asked
    USAGE = 2  # wrong arguments, settings or input file
    REQUESTS_FAILED = 3  # the batch ended, some of its requests failed
    UNFINISHED = 4  # the batch expired or was cancelled
    STOPPED = 130  # stopped by Ctrl-C; what was begun can be resumed


def exit_of_batch(batch: Mapping[str, Any]) -> Exit:
    """The exit code for a Batch object as it stands."""
    status = batch.get("status")
    if status == "failed":
        return Exit.USAGE
    if status in ("expired", "cancelled"):
        return Exit.UNFINISHED
    counts = batch.get("request_counts") or {}
    return Exit.REQUESTS_FAILED if counts.get("failed") else Exit.OK
