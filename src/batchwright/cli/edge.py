"""The one place where errors of commands become messages and exit codes; never a traceback."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from batchwright.client.errors import BatchInvalid

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
        return _report(error, _help_of(app, arguments))
    return code if isinstance(code, int) else Exit.OK


def _report(error: BaseException, help_command: str) -> int:
    """Say what went wrong; `help_command` shows what the command takes."""
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
            return _say(_usage_message(error), _usage_hint(error), Exit.USAGE)
        case BatchwrightError():
            return _say(_message(error), _hint(error, help_command), _exit_of(error))
        case OSError() if error.strerror:
            where = f": {error.filename}" if error.filename else ""
            return _say(f"{error.strerror}{where}", _hint_of_path(error), Exit.FAILED)
        case _:
            hint = f"this is a bug of ours; {DEBUG}=1 shows where"
            return _say(f"{type(error).__name__}: {error}", hint, Exit.FAILED)


def _message(error: BatchwrightError) -> str:
    """The text, with the argument that a server refused where it does not name it."""
    from batchwright.client.errors import BadRequest

    text = str(error)
    if isinstance(error, BadRequest) and error.param and error.param not in text:
        return f"{error.param}: {text}"
    return text


def _say(message: str, hint: str | None, code: Exit) -> int:
    """The message on one line, or on several where it lists several problems."""
    lines = [plain(line) for line in message.splitlines()] or ["failed without a message"]
    sys.stderr.write("\n".join([f"error: {lines[0]}", *lines[1:]]) + "\n")
    if hint:
        sys.stderr.write(f"hint: {plain(hint)}\n")
    sys.stderr.flush()
    return code


def _usage_message(error: Any) -> str:
    """Typer's text on one line, without the words of its validation library."""
    text = " ".join(error.format_message().split()).replace("Value error, ", "", 1)
    text = text.removesuffix(" (Possible options: --help)")
    owners = _owners_of_unknown(error)
    return f"{text} (only `{owners[0]}` has {error.option_name})" if len(owners) == 1 else text


def _owners_of_unknown(error: Any) -> list[str]:
    """The commands that have the option that the given one has not."""
    if not hasattr(error, "possibilities") or error.ctx is None:
        return []
    commands = _commands(error.ctx.find_root().command)
    return [
        name
        for name, command in commands.items()
        if any(error.option_name in each.opts for each in command.params)
    ]


def _usage_hint(error: BaseException) -> str | None:
    context = getattr(error, "ctx", None)
    return None if context is None else f"{context.command_path} --help"


def _exit_of(error: BatchwrightError) -> Exit:
    from batchwright.client.errors import BadRequest, BatchInvalid

    is_usage = isinstance(error, UsageError | BadRequest | BatchInvalid)
    return Exit.USAGE if is_usage else Exit.FAILED


def _help_of(app: typer.Typer, arguments: Sequence[str] | None) -> str:
    """How the user asks what the command takes: `batchwright keys create --help`."""
    given = sys.argv[1:] if arguments is None else arguments
    path, commands = ["batchwright"], _commands(typer.main.get_command(app))
    for name in given:
        if name not in commands:
            break
        path.append(name)
        commands = _commands(commands[name])
    return " ".join([*path, "--help"])


def _commands(command: Any) -> dict[str, Any]:
    return getattr(command, "commands", {})


def _hint(error: BatchwrightError, help_command: str) -> str | None:
    from batchwright.client import errors
    from batchwright.local.errors import InvalidInput, Stalled

    match error:
        case ConfigError(param="base_url"):
            return "--base-url gives it, else BATCHWRIGHT_BASE_URL"
        case ConfigError(param="config"):
            return "name a file that is there, or leave --config out"
        case ConfigError(param="server.port"):
            return "choose another with --port; 0 takes a free one"
        case ConfigError():
            return "batchwright config shows every setting and where it came from"
        case Locked():
            return "stop that process, or choose another --data-dir"
        case NoSpace():
            return "make room, or lower limits.reserve_mb"
        case errors.ServerUnreachable():
            return "start one with: batchwright serve, or name it with --base-url"
        case errors.Unauthenticated():
            return (
                "pass a key of that server with --api-key or BATCHWRIGHT_API_KEY; "
                "batchwright keys create makes one"
            )
        case errors.Forbidden():
            return "pass an admin key with --api-key; the first start of a server leaves one"
        case errors.ObjectNotFound():
            return _where_to_look(str(error))
        case InvalidInput():
            return "mend that and run the same command again; --dry-run looks and sends nothing"
        case Stalled():
            return "does the provider run? batchwright config shows its base_url and its key"
        case errors.BatchInvalid():
            return f"mend these lines and submit again; {_where_faults_show(error)}"
        case UsageError() | errors.BadRequest():
            return help_command
        case _:
            return None


def _where_faults_show(error: BatchInvalid) -> str:
    """What a server serves it alone knows; the rest is seen from here."""
    if any(each.code == "model_not_found" for each in error.errors):
        return "batchwright models shows what the server serves"
    return "batchwright check FILE finds all of them"


def _hint_of_path(error: OSError) -> str | None:
    if not error.filename:
        return None
    if isinstance(error, PermissionError):
        return f"see who may use it: ls -ld '{error.filename}'"
    return "name another file or folder"


def _where_to_look(message: str) -> str:
    """The command that lists what was asked for in vain."""
    lists = {"key": "keys list", "file": "files list", "model": "models"}
    words = re.findall(r"[a-z]+", message.lower())
    command = next((name for word, name in lists.items() if word in words), "list")
    return f"batchwright {command} shows what there is"
