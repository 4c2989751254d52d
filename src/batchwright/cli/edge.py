"""The one place where errors of commands become messages and exit codes; never a traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from batchwright.cli.exits import Exit
from batchwright.cli.terminal import plain
from batchwright.domain.errors import (
    BatchwrightError,
    ConfigError,
    Locked,
    NoSpace,
    UsageError,
)

# Typer brings a click of its own and does not export the class that all its errors share.
_ClickError: Any = typer.BadParameter.__mro__[2]

DEBUG = "BATCHWRIGHT_DEBUG"


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code, having said what went wrong."""
    try:
        code = app(args=arguments, prog_name="batchwright", standalone_mode=False)
    except BaseException as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        return _report(error)
    return code if isinstance(code, int) else Exit.OK


def _report(error: BaseException) -> int:
    match error:
        case KeyboardInterrupt() | typer.Abort():
            return Exit.STOPPED
        case SystemExit():
            return error.code if isinstance(error.code, int) else Exit.FAILED
        case BrokenPipeError():
            # The reader (`head`, say) has gone. Python would complain again when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.FAILED
        case _ if isinstance(error, _ClickError) and not error.format_message():
            return int(Exit.USAGE)  # a group without its command: its help has been shown
        case _ if isinstance(error, _ClickError):
            return _say(error.format_message(), _usage_hint(error), Exit.USAGE)
        case BatchwrightError():
            return _say(str(error), _hint(error), _exit_of(error))
        case OSError() if error.strerror:
            where = f": {error.filename}" if error.filename else ""
            return _say(f"{error.strerror}{where}", None, Exit.FAILED)
        case _:
            hint = f"this is a bug of ours; {DEBUG}=1 shows where"
            return _say(f"{type(error).__name__}: {error}", hint, Exit.FAILED)


def _say(message: str, hint: str | None, code: Exit) -> int:
    """The message on one line, or on several where it lists several problems."""
    lines = [plain(line) for line in message.splitlines()] or ["failed without a message"]
    sys.stderr.write("\n".join([f"error: {lines[0]}", *lines[1:]]) + "\n")
    if hint:
        sys.stderr.write(f"hint: {plain(hint)}\n")
    sys.stderr.flush()
    return code


def _usage_hint(error: BaseException) -> str | None:
    context = getattr(error, "ctx", None)
    return None if context is None else f"{context.command_path} --help"


def _exit_of(error: BatchwrightError) -> Exit:
    from batchwright.client.errors import BatchInvalid

    return Exit.USAGE if isinstance(error, UsageError | BatchInvalid) else Exit.FAILED


def _hint(error: BatchwrightError) -> str | None:
    from batchwright.client import errors

    match error:
        case ConfigError():
            return "batchwright config shows every setting and where it came from"
        case Locked():
            return "stop that process, or choose another --data-dir"
        case NoSpace():
            return "make room, or lower limits.reserve_mb"
        case errors.ServerUnreachable():
            return "start one with: batchwright serve, or name it with --base-url"
        case errors.Unauthenticated():
            return "pass --api-key, or set BATCHWRIGHT_API_KEY"
        case errors.Forbidden():
            return "this needs an admin key"
        case errors.ObjectNotFound():
            return "batchwright list and batchwright files list show what there is"
        case _:
            return None
