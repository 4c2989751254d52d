"""Prompt templates: `Classify: {review}`.

A name in braces is a column and nothing else: no attributes, no indexes, no format
specifications. A literal brace is written `{{` or `}}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from batchwright.domain.errors import UsageError

PROMPT_BYTES_MAX = 16 * 2**20
_COLUMNS_SHOWN = 50

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_ACCESS = re.compile(r"[.:!\[]")  # where an attribute, format, conversion or index would begin


@dataclass(frozen=True, slots=True)
class Prompt:
    """A template that was checked against the columns of a table."""

    columns: tuple[str, ...]  # those that it uses, each once, in the order of `render`
    _format: str  # for str.format, with {0}, {1}, … for the columns

    def render(self, cells: Sequence[str | None]) -> str:
        """The prompt for the cells of `columns`; null is empty text."""
        return self._format.format(*[cell or "" for cell in cells])


def read_prompt(argument: str) -> str:
    """The template of a `--prompt` argument: itself, or the file that `@path` names.

    One line break at the end of a file belongs to the file, not to the prompt.
    A template that begins with `@` is written with `@@`.
    """
    if argument.startswith("@@"):
        return argument[1:]
    if not argument.startswith("@"):
        return argument
    text = _read_text(Path(argument[1:]))
    return text.removesuffix("\n").removesuffix("\r")


def compile_prompt(template: str, columns: Sequence[str]) -> Prompt:
    """Check a template against the columns of a table and prepare it.

    Raises `UsageError` for a stray brace, a column that the table lacks, or no column at all.
    """
    used: dict[str, int] = {}

    def compiled(token: re.Match[str]) -> str:
        if token[0] in {"{{", "}}"}:
            return token[0]
        if token[1] is None:
            raise _stray_brace(template, token)
        name = _column(token[1], columns)
        return f"{{{used.setdefault(name, len(used))}}}"

    text = _TOKEN.sub(compiled, template)
    if not used:
        raise UsageError(
            "the prompt names no column, so that every row would ask the same: "
            f"write {{{columns[0] if columns else 'column'}}} where a cell belongs",
            param="prompt",
        )
    return Prompt(tuple(used), text)


def require_column(name: str, columns: Sequence[str], *, asked_by: str) -> None:
    """Raise `UsageError`, listing the columns and the nearest one, unless `name` is one."""
    if name not in columns:
        raise UsageError(
            f'{asked_by} names the column "{name}", which the input does not have; '
            f"{_choices(name, columns)}"
        )


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(PROMPT_BYTES_MAX + 1)
        if len(data) > PROMPT_BYTES_MAX:
            raise UsageError(f"the prompt file {path} is longer than 16 MiB")
        return data.decode("utf-8-sig")
    except OSError as exc:
        raise UsageError(f"the prompt file {path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"the prompt file {path} is not UTF-8: {exc}") from exc


def _column(name: str, columns: Sequence[str]) -> str:
    for candidate in (name, name.strip()):
        if candidate in columns:
            return candidate
    if any(sign in name for sign in ".[:!\"'") or not name.strip():
        raise UsageError(
            f"the prompt has {{{name}}}: between braces stands the name of a column and nothing "
            "else (no attribute, index or format); a literal brace is written {{ or }}; "
            f"{_choices(_ACCESS.split(name)[0], columns)}",
            param="prompt",
        )
    require_column(name, columns, asked_by="the prompt")
    return name


def _stray_brace(template: str, token: re.Match[str]) -> UsageError:
    line = template.count("\n", 0, token.start()) + 1
    column = token.start() - template.rfind("\n", 0, token.start())
    return UsageError(
        f'the prompt has a single "{token[0]}" at line {line}, character {column}: '
        f'a literal brace is written "{token[0] * 2}"',
        param="prompt",
    )


def _choices(name: str, columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:_COLUMNS_SHOWN])
    more = f" and {len(columns) - _COLUMNS_SHOWN} more" if len(columns) > _COLUMNS_SHOWN else ""
    text = f"the columns are: {shown}{more}"
    folded = {column.casefold(): column for column in columns}
    nearest = get_close_matches(name.strip().casefold(), folded, n=1)
    return f'{text}. Did you mean "{folded[nearest[0]]}"?' if nearest else text
