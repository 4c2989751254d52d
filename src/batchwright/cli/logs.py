"""Logs on stderr: JSON lines, or readable ones in a terminal. stdout belongs to the command."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from batchwright.cli.terminal import plain


def configure_logs() -> None:
    """Send every log event to stderr."""
    steps: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        steps += [_escape, structlog.dev.ConsoleRenderer()]
    else:
        steps += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=steps,
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _escape(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = plain(value)
    return event
