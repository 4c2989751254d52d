"""What `--help` shows."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from batchwright.cli.app import app
from batchwright.cli.edge import run
from batchwright.config import Config, ServerConfig


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 100)


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert run(app, [*command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [(), ("run",), ("serve",), ("files",), ("keys", "create")])
def test_a_flag_takes_no_value(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "<bool>" not in help_of(capsys, *command)


def test_the_defaults_of_serve_are_those_of_the_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = help_of(capsys, "serve")

    assert f"({ServerConfig().host})" in shown
    assert f"({ServerConfig().port})" in shown
    assert f"(./{Config().data_dir})" in shown


def test_nothing_of_a_help_text_can_be_taken_for_markup() -> None:
    root: Any = typer.main.get_command(app)
    commands = [*root.commands.values()]
    commands += [inner for each in commands for inner in getattr(each, "commands", {}).values()]

    assert [p.help for c in commands for p in c.params if "[" in (p.help or "")] == []


def test_a_paragraph_fills_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = help_of(capsys, "run").splitlines()

    first = next(line for line in lines if "The same command again" in line)
    assert first.rstrip().endswith("is paid")
