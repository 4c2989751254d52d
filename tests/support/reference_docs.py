"""The parts of the docs that are made from the code: tables of settings, commands and options.

They stand between `<!-- begin NAME -->` and `<!-- end -->`. A test compares them;
`PYTHONPATH=src python tests/support/reference_docs.py` writes them anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import typer

from batchwright.cli.app import app
from batchwright.config import Config, LimitsConfig, ModelConfig, ProviderConfig, ServerConfig
from batchwright.providers.catalog import catalog

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("configuration.md", "command-line.md")

_PART = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_EVERYWHERE = {"--help"}


def updated(page: str) -> str:
    """A page with its made parts as they should be."""
    text = (DOCS / page).read_text()
    return _PART.sub(lambda found: found[1] + PARTS[found[2]]() + "\n" + found[3], text)


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


# Settings


def settings(kind: type) -> str:
    declared = (each for each in fields(kind) if "reader" in each.metadata)
    rows = ((f"`{each.name}`", _default(each), each.metadata["help"]) for each in declared)
    return table(("setting", "default", "what it is"), rows)


def _default(declared: Field[Any]) -> str:
    value = declared.default
    if value is MISSING or value is None or value in ("", ()):
        return "–"
    return f"`{json.dumps(str(value) if isinstance(value, Path) else value)}`"


def providers() -> str:
    rows = (
        (
            f"`{entry.name}`",
            entry.title,
            ", ".join(f"`{name}`" for name in entry.api_key_env) or "–",
        )
        for entry in catalog().values()
    )
    return table(("name", "provider", "variable of its key"), rows)


# Commands


def commands() -> str:
    return "\n\n".join(_described(path, command) for path, command in _all_commands())


def _all_commands() -> Iterator[tuple[str, Any]]:
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {each}", under) for each, under in inner.items())


def _described(path: str, command: Any) -> str:
    shown = [each for each in command.params if not _EVERYWHERE & set(each.opts)]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    usage = " ".join(["batchwright", path, *(["[OPTIONS]"] if options else [])])
    usage += "".join(f" {each.metavar or each.name.upper()}" for each in arguments)
    parts = [f"### `batchwright {path}`", f"```text\n{usage}\n```", _paragraphs(command.help)]
    if arguments or options:
        rows = ((_named(each), _cell(each.help)) for each in [*arguments, *options])
        parts.append(table(("argument or option", "what it is"), rows))
    return "\n\n".join(parts)


def _paragraphs(text: str) -> str:
    """One sentence per line, as in the rest of the docs."""
    whole = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return "\n\n".join(re.sub(r"(?<=[.!?]) (?=[A-Z])", "\n", part) for part in whole)


def _named(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    takes = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join(f"`{name}{takes}`" for name in parameter.opts)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {
    "general": lambda: settings(Config),
    "server": lambda: settings(ServerConfig),
    "limits": lambda: settings(LimitsConfig),
    "providers": lambda: settings(ProviderConfig),
    "models": lambda: settings(ModelConfig),
    "catalog": providers,
    "commands": commands,
}


def main() -> None:
    for page in PAGES:
        (DOCS / page).write_text(updated(page))


if __name__ == "__main__":
    sys.exit(main())
