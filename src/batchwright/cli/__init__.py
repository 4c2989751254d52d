"""The command line: `main` is the program `batchwright`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

_STOPPED = 130  # as `exits.Exit.STOPPED`, which may not be imported yet


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command; ends the process with its exit code (`cli.exits`)."""
    try:
        from batchwright.cli.app import app
        from batchwright.cli.edge import run

        code = run(app, arguments)
    except KeyboardInterrupt:  # before the command began
        code = _STOPPED
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process without taking the interpreter down.

    The threads of pyreqwest 0.15 may come back to an interpreter that is going down, which
    aborts the process (after a refused connection in half of the cases; also where large answers
    over TLS were broken off just before).
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
