"""Errors of commands: one line, a hint, an exit code, never a traceback."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import typer

from batchwright.cli import main
from batchwright.cli.app import app
from batchwright.cli.edge import run
from batchwright.cli.exits import Exit, exit_of_batch
from batchwright.client.errors import (
    BatchInvalid,
    LineError,
    ObjectNotFound,
    ServerUnreachable,
    Unauthenticated,
)
from batchwright.domain.errors import ConfigError, Locked, StorageError, UsageError


def program(work: Callable[[], int | None]) -> typer.Typer:
    """A program of one command."""
    made = typer.Typer()
    made.command()(work)
    return made


def raising(error: BaseException) -> typer.Typer:
    def work() -> None:
        raise error

    return program(work)


@pytest.mark.parametrize(
    ("error", "code", "first_line"),
    [
        (UsageError("no such column"), 2, "error: no such column"),
        (ConfigError("server.port: expected"), 2, "error: server.port: expected"),
        (BatchInvalid("b", [LineError("c", "bad", 3)]), 2, "error: Batch b failed validation: "),
        (Locked("/data is in use by process 1"), 1, "error: /data is in use by process 1"),
        (StorageError("disk failed"), 1, "error: disk failed"),
        (ServerUnreachable("No answer"), 1, "error: No answer"),
        (Unauthenticated("wrong key", status=401), 1, "error: wrong key"),
        (FileNotFoundError(2, "No such file", "a.csv"), 1, "error: No such file: a.csv"),
        (ZeroDivisionError("by zero"), 1, "error: ZeroDivisionError: by zero"),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(
    error: BaseException, code: int, first_line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error), []) == code

    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[0].startswith(first_line)
    assert "Traceback" not in shown.err


def test_ctrl_c_has_an_exit_code_of_its_own() -> None:
    assert run(raising(KeyboardInterrupt()), []) == 130


def test_ctrl_c_before_the_command_began_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    left: list[int] = []
    monkeypatch.setattr("batchwright.cli.edge.run", interrupted)
    monkeypatch.setattr("batchwright.cli._leave", left.append)

    main([])

    assert left == [Exit.STOPPED]


def test_who_may_not_read_is_shown_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(PermissionError(13, "Permission denied", "a/b.csv")), [])

    assert "hint: see who may use it: ls -ld 'a/b.csv'" in capsys.readouterr().err


def test_control_characters_of_an_error_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(UsageError("a\x1b[2Jb")), [])

    assert "\x1b" not in capsys.readouterr().err


def test_a_hint_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(Unauthenticated("wrong key", status=401)), [])

    assert "with --api-key or BATCHWRIGHT_API_KEY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "command"),
    [
        ("missing_required_parameter", "batchwright check FILE"),
        ("model_not_found", "batchwright models"),
    ],
)
def test_what_was_refused_is_to_be_looked_up_where_it_can_be_seen(
    code: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(raising(BatchInvalid("b", [LineError("other", "bad", 1), LineError(code, "bad", 3)])), [])

    assert command in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ("No such key: key_1", "batchwright keys list"),
        ("No such File object: file-1", "batchwright files list"),
        ("No batch found with id 'batch_1'.", "batchwright list"),
    ],
)
def test_what_was_not_found_is_to_be_looked_up_where_its_kind_is_listed(
    message: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(raising(ObjectNotFound(message, status=404)), [])

    assert f"hint: {command} shows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["submit", "nothing.jsonl"], "nothing.jsonl, which is not there"),
        (["submit", "."], "the folder ."),
        (["files", "upload", "nothing.jsonl"], "nothing.jsonl, which is not there"),
    ],
)
def test_a_file_that_is_none_is_told_with_what_was_expected(
    arguments: list[str], given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, arguments) == Exit.USAGE

    told, hint = capsys.readouterr().err.splitlines()
    assert told == f"error: FILE: expected a file of batch requests (JSONL), got {given}"
    assert hint == f"hint: batchwright {' '.join(arguments[:-1])} --help"


def test_a_base_url_that_is_none_is_told_with_where_it_is_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(app, ["status", "--base-url", "nonsense"]) == Exit.USAGE

    assert "hint: --base-url gives it" in capsys.readouterr().err


def test_the_exit_code_of_a_command_is_what_it_returns() -> None:
    assert run(program(lambda: Exit.REQUESTS_FAILED), []) == 3
    assert run(program(lambda: None), []) == 0


@pytest.mark.parametrize(
    "arguments",
    [["serve", "--prot", "1"], ["serve", "--port", "x"], ["nothing"], ["cancel"], ["list", "x"]],
)
def test_a_wrong_argument_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, arguments) == Exit.USAGE

    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "--help" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("priority batch_1", "Missing argument 'LEVEL'. Choose from: low, normal, high"),
        (
            "priority batch_1 top",
            "Invalid value for 'LEVEL': 'top' is not one of 'low', 'normal', 'high'.",
        ),
        ("run in.csv --cache 7d", "No such option: --cache (only `submit` has --cache)"),
        ("run in.csv --xyzzy", "No such option: --xyzzy"),
        ("wait --jsn", "No such option: --jsn (Possible options: --json)"),
    ],
)
def test_a_wrong_argument_is_told_on_one_line_in_plain_words(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(app, arguments.split())

    assert capsys.readouterr().err.splitlines()[0] == f"error: {message}"


@pytest.mark.parametrize(
    ("status", "failed", "code"),
    [
        ("completed", 0, Exit.OK),
        ("completed", 1, Exit.REQUESTS_FAILED),
        ("failed", 0, Exit.USAGE),
        ("expired", 1, Exit.UNFINISHED),
        ("cancelled", 0, Exit.UNFINISHED),
        ("in_progress", 0, Exit.OK),
    ],
)
def test_a_batch_has_an_exit_code(status: str, failed: int, code: Exit) -> None:
    assert exit_of_batch({"status": status, "request_counts": {"failed": failed}}) == code
