"""batchwright: a file of AI requests in, a file of answers out.

The library in short (`docs/library.md`):

- `run` answers every row of a table with the engine in this process;
- `BatchProcessor` and `AsyncBatchProcessor` talk to any OpenAI-compatible batch API;
- `process_batch` and `process_batch_async` make direct concurrent calls.

Names are imported when they are first used, so that `import batchwright` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchwright.client import (
        AsyncBatchProcessor,
        BatchInvalid,
        BatchProcessor,
        RequestFailure,
        RequestsFailed,
        process_batch,
        process_batch_async,
    )
    from batchwright.local.library import run, run_async

__version__ = "0.1.0"

_HOMES = {
    "AsyncBatchProcessor": "client",
    "BatchInvalid": "client",
    "BatchProcessor": "client",
    "RequestFailure": "client",
    "RequestsFailed": "client",
    "process_batch": "client",
    "process_batch_async": "client",
    "run": "local.library",
    "run_async": "local.library",
}

__all__ = [
    "AsyncBatchProcessor",
    "BatchInvalid",
    "BatchProcessor",
    "RequestFailure",
    "RequestsFailed",
    "__version__",
    "process_batch",
    "process_batch_async",
    "run",
    "run_async",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
