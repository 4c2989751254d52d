"""Logs on stderr: JSON lines, or readable ones in a terminal. stdout belongs to the command."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from batchwright.cli.terminal import plain


def configure_logs() -> None:
    """Send every log event to stderr, those of libraries (from warnings up) in the same form."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if sys.stderr.isatty():
        plain_traceback = structlog.dev.plain_traceback  # the rich one shows locals: prompts, keys
        last = [_escape, structlog.dev.ConsoleRenderer(exception_formatter=plain_traceback)]
    structlog.configure(
        processors=shared + last, logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    _route_library_logs(shared, last)


def _route_library_logs(shared: list[Any], last: list[Any]) -> None:
    without_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[without_meta, *last]
        )
    )
    handler.addFilter(_is_no_cut_off)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _is_no_cut_off(record: logging.LogRecord) -> bool:
    """False for what uvicorn says of a client that was cut off when the grace of a stop ended."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _escape(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = plain(value)
    return event
