"""What makes two runs the same run: only then may one go on where the other stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from batchwright.domain.errors import UsageError

_TEXT_SHOWN = 100


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Everything that decides which requests a run sends."""

    input_size_bytes: int
    input_sha256: str  # hex
    prompt: str | None = None  # the text of the template, not the name of its file
    system: str | None = None
    model: str | None = None
    embed: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    dedupe: bool = False

    def differences(self, earlier: RunIdentity) -> list[str]:
        """What differs from an earlier run, a plain sentence each; empty if nothing does."""
        return [
            *self._input_difference(earlier),
            *_changed("prompt", _quoted(earlier.prompt), _quoted(self.prompt)),
            *_changed("system message", _quoted(earlier.system), _quoted(self.system)),
            *_changed("model", _quoted(earlier.model), _quoted(self.model)),
            *_changed("column to embed", _quoted(earlier.embed), _quoted(self.embed)),
            *self._param_differences(earlier),
            *_changed("limit", _number(earlier.limit), _number(self.limit)),
            *self._dedupe_difference(earlier),
        ]

    def _dedupe_difference(self, earlier: RunIdentity) -> list[str]:
        if self.dedupe == earlier.dedupe:
            return []
        return ["Dedupe is on now; it was off." if self.dedupe else "Dedupe is off now; it was on."]

    def _input_difference(self, earlier: RunIdentity) -> list[str]:
        if self.input_size_bytes != earlier.input_size_bytes:
            return [
                f"The input has changed: it was {earlier.input_size_bytes:,} bytes long and "
                f"is {self.input_size_bytes:,} now."
            ]
        if self.input_sha256 != earlier.input_sha256:
            return ["The input has changed: it has the same length but other content."]
        return []

    def _param_differences(self, earlier: RunIdentity) -> list[str]:
        ours, theirs = _json_values(self.params), _json_values(earlier.params)
        return [
            sentence
            for name in sorted(ours.keys() | theirs.keys())
            for sentence in _changed(f"parameter {name}", theirs.get(name), ours.get(name))
        ]


def hash_file(path: Path) -> tuple[int, str]:
    """The size in bytes and the SHA-256 (hex) of a file."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), digest
    except OSError as exc:
        raise UsageError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def _json_values(params: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: msgspec.json.encode(value, order="sorted").decode() for name, value in params.items()
    }


def _changed(what: str, before: str | None, now: str | None) -> list[str]:
    if before == now:
        return []
    if before is None:
        return [f"The {what} is {_short(now)} now; there was none."]
    if now is None:
        return [f"The {what} was {_short(before)}; there is none now."]
    return [f"The {what} was {_short(before)} and is {_short(now)} now."]


def _quoted(text: str | None) -> str | None:
    return None if text is None else f'"{text}"'


def _number(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _short(text: str | None) -> str:
    """On one line, and with its middle left out where it is long."""
    line = " ".join((text or "").split())
    half = _TEXT_SHOWN // 2
    return line if len(line) <= _TEXT_SHOWN else f"{line[:half]}…{line[-half:]}"
