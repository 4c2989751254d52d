"""The engine's log while it runs inside somebody's terminal or notebook."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn

import structlog


@contextmanager
def quiet_logs() -> Iterator[None]:
    """No log lines in between: what they tell is shown or raised. A host that has set up structlog
    keeps what it has set up."""
    if structlog.is_configured():
        yield
        return
    structlog.configure(processors=[_drop])
    try:
        yield
    finally:
        structlog.reset_defaults()


def _drop(logger: Any, method: str, event: MutableMapping[str, Any]) -> NoReturn:
    raise structlog.DropEvent
