"""Serving the application with uvicorn, with the network defaults of the project."""

from __future__ import annotations

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_S = 75
BACKLOG = 1_000
SHUTDOWN_S = 30  # answers under way may take so long at a stop


def serving_config(app: ASGIApp, *, host: str, port: int) -> uvicorn.Config:
    """How uvicorn runs the application: no forwarded headers are trusted, no log of its own."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        backlog=BACKLOG,
    )
