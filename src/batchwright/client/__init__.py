"""The client library: batch jobs and direct calls over any OpenAI-compatible API.

Names are imported when they are first used, so that `import batchwright` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchwright.client.api import Client
    from batchwright.client.blocking import BatchProcessor
    from batchwright.client.direct import process_batch, process_batch_async
    from batchwright.client.errors import (
        ApiError,
        BadRequest,
        BatchInvalid,
        Forbidden,
        LineError,
        ObjectNotFound,
        RateLimited,
        RequestFailure,
        RequestsFailed,
        ServerFailed,
        ServerUnreachable,
        StateConflict,
        Unauthenticated,
    )
    from batchwright.client.job_status import JobStatus
    from batchwright.client.processor import AsyncBatchProcessor
    from batchwright.client.results import Result
    from batchwright.client.sync import run_sync

_HOMES = {
    "ApiError": "errors",
    "AsyncBatchProcessor": "processor",
    "BadRequest": "errors",
    "BatchInvalid": "errors",
    "BatchProcessor": "blocking",
    "Client": "api",
    "Forbidden": "errors",
    "JobStatus": "job_status",
    "LineError": "errors",
    "ObjectNotFound": "errors",
    "RateLimited": "errors",
    "RequestFailure": "errors",
    "RequestsFailed": "errors",
    "Result": "results",
    "ServerFailed": "errors",
    "ServerUnreachable": "errors",
    "StateConflict": "errors",
    "Unauthenticated": "errors",
    "process_batch": "direct",
    "process_batch_async": "direct",
    "run_sync": "sync",
}

__all__ = [
    "ApiError",
    "AsyncBatchProcessor",
    "BadRequest",
    "BatchInvalid",
    "BatchProcessor",
    "Client",
    "Forbidden",
    "JobStatus",
    "LineError",
    "ObjectNotFound",
    "RateLimited",
    "RequestFailure",
    "RequestsFailed",
    "Result",
    "ServerFailed",
    "ServerUnreachable",
    "StateConflict",
    "Unauthenticated",
    "process_batch",
    "process_batch_async",
    "run_sync",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
