"""How one setting is read: from TOML it comes typed, from the environment and from flags as text.

A reader takes the raw value and returns the typed one, or raises `Unexpected` with what it
expected. It never repeats the value: the caller does, unless it may be a secret.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SECRET_BYTES_MAX = 64 * 1024


class Unexpected(Exception):
    """The value is not what the setting takes. `shows_value` False: it may be a secret."""

    def __init__(self, expected: str, *, shows_value: bool = True) -> None:
        super().__init__(expected)
        self.expected = expected
        self.shows_value = shows_value


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that is never shown; `source` says where it came from."""

    value: str = field(repr=False)
    source: str

    def __str__(self) -> str:
        return f"******** ({self.source})"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a raw value comes from, and what is needed to read it there."""

    name: str  # as shown: a file's path, a variable's name, a flag
    folder: Path  # what relative paths count from
    environment: Mapping[str, str] = field(repr=False)
    is_text: bool = True  # a variable or a flag: numbers and lists come as text


Reader = Callable[[Any, Origin], Any]


def setting(default: Any, reader: Reader, text: str) -> Any:
    """A field of a settings class: its default (`dict`: an empty one), reader and one sentence."""
    metadata = {"reader": reader, "help": text}
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


# Readers


def read_text(raw: Any, origin: Origin) -> str:
    if not _is_text(raw):
        raise Unexpected("a text")
    return str(raw).strip()


def read_flag(raw: Any, origin: Origin) -> bool:
    if origin.is_text and isinstance(raw, str):
        raw = _FLAG_WORDS.get(raw.strip().lower(), raw)
    if not isinstance(raw, bool):
        raise Unexpected("true or false")
    return raw


_FLAG_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def whole(low: int, high: int, *, or_none: bool = False) -> Reader:
    """A reader of whole numbers from `low` to `high`; `or_none`: 0 means no limit."""

    def read(raw: Any, origin: Origin) -> int | None:
        value = _number(raw, origin)
        if or_none and value == 0:
            return None
        if value is None or not low <= value <= high or value != int(value):
            tail = ", or 0 for no limit" if or_none else ""
            raise Unexpected(f"a whole number from {low:,} to {high:,}{tail}")
        return int(value)

    return read


def number(low: float, high: float, *, or_none: bool = False) -> Reader:
    """A reader of numbers from `low` to `high`; `or_none`: 0 means no limit."""

    def read(raw: Any, origin: Origin) -> float | None:
        value = _number(raw, origin)
        if or_none and value == 0:
            return None
        if value is None or not low <= value <= high:
            tail = ", or 0 for no limit" if or_none else ""
            raise Unexpected(f"a number from {low:g} to {high:,g}{tail}")
        return float(value)

    return read


def _number(raw: Any, origin: Origin) -> float | None:
    if origin.is_text and isinstance(raw, str):
        try:
            return float(raw.strip().replace("_", ""))
        except ValueError:
            return None
    return raw if isinstance(raw, int | float) and not isinstance(raw, bool) else None


def read_path(raw: Any, origin: Origin) -> Path:
    """A path; a relative one counts from the folder of the file that names it."""
    path = raw if isinstance(raw, Path) else Path(read_text(raw, origin))
    return origin.folder / path.expanduser()


def read_file_path(raw: Any, origin: Origin) -> str:
    path = read_path(raw, origin)
    if not path.is_file():
        raise Unexpected("the path of a file that exists")
    return str(path)


def read_names(raw: Any, origin: Origin) -> tuple[str, ...]:
    """A list of texts; in a variable separated by commas, or as a TOML list."""
    if origin.is_text and isinstance(raw, str):
        raw = _toml(raw) if raw.strip().startswith("[") else _comma_separated(raw)
    if not isinstance(raw, list) or not all(map(_is_text, raw)):
        raise Unexpected('a list of texts such as ["gpt-*", "o4-mini"]')
    return tuple(name.strip() for name in raw)


def _comma_separated(text: str) -> list[str]:
    return [part for part in text.split(",") if part.strip()]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def read_routes(raw: Any, origin: Origin) -> tuple[str, ...]:
    routes = read_names(raw, origin)
    if not routes or not all(_ROUTE.fullmatch(route) for route in routes):
        raise Unexpected('a list of "provider/model", the preferred one first')
    return routes


_ROUTE = re.compile(r"[^/\s]+/\S+")


def read_endpoints(raw: Any, origin: Origin) -> tuple[str, ...]:
    endpoints = read_names(raw, origin)
    if not all(_ENDPOINT.fullmatch(endpoint) for endpoint in endpoints):
        raise Unexpected('a list of paths such as ["/v1/images/generations"]')
    return endpoints


_ENDPOINT = re.compile(r"/v1(/[A-Za-z0-9._-]+)+")


def read_url(raw: Any, origin: Origin) -> str:
    url = read_text(raw, origin)
    if not _is_url(url):
        raise Unexpected("a URL such as https://api.openai.com/v1", shows_value="@" not in url)
    parts = urlsplit(url)
    if parts.username or parts.query or parts.fragment:
        raise Unexpected(
            "a URL without user, query and fragment (keys belong into api_key or headers)",
            shows_value=False,
        )
    return url


def read_proxy(raw: Any, origin: Origin) -> Secret:
    """The URL of a proxy, which may carry a password; `env:NAME` and `file:PATH` work too."""
    text = read_text(raw, origin)
    secret = read_secret(text, origin) if _is_reference(text) else Secret(text, origin.name)
    if not _is_url(secret.value):
        raise Unexpected("a URL such as http://proxy.internal:3128", shows_value=False)
    return secret


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


# Secrets


def read_secret(raw: Any, origin: Origin) -> Secret:
    """`env:NAME` or `file:PATH`, looked up now. A variable may also hold the secret itself."""
    text = raw.strip() if isinstance(raw, str) else ""
    scheme, _, where = text.partition(":")
    if scheme == "env" and where:
        return Secret(_from_environment(where, origin), text)
    if scheme == "file" and where:
        return Secret(_from_file(origin.folder / Path(where).expanduser()), text)
    if text and origin.is_text:
        return Secret(text, origin.name)
    raise Unexpected('"env:NAME" or "file:PATH"', shows_value=False)


def read_headers(raw: Any, origin: Origin) -> Mapping[str, Secret]:
    """A table of header values, each a text, `env:NAME` or `file:PATH`."""
    if origin.is_text and isinstance(raw, str):
        raw = _toml(raw)
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise Unexpected('a table such as { "x-team" = "data" }', shows_value=False)
    return {name: _header(value, origin) for name, value in raw.items()}


def _header(text: str, origin: Origin) -> Secret:
    return read_secret(text, origin) if _is_reference(text) else Secret(text, origin.name)


def _is_reference(text: str) -> bool:
    return text.startswith(("env:", "file:"))


def _from_environment(name: str, origin: Origin) -> str:
    value = origin.environment.get(name, "").strip()
    if not value:
        raise Unexpected(f"the variable {name} to be set: export {name}=…", shows_value=False)
    return value


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as source:
            value = source.read(SECRET_BYTES_MAX).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise Unexpected(f"a file that can be read ({path}: {reason})", shows_value=False) from None
    if not value:
        raise Unexpected(f"a file that is not empty ({path})", shows_value=False)
    return value


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None
