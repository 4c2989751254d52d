"""The providers that are known by name: their base URL and where their key is found."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A known provider."""

    name: str
    title: str
    kind: str
    base_url: str
    api_key_env: tuple[str, ...]  # the usual variable first; empty for one on this machine
    source: str  # the page of its documentation

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine without a key; then only configuration turns it on."""
        return not self.api_key_env

    def key_variable(self, environment: Mapping[str, str]) -> str | None:
        """The variable that holds its key, the first that is not empty; None where none does."""
        return next((name for name in self.api_key_env if environment.get(name)), None)


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """Every known provider by name, in the order of `catalog.toml`."""
    text = files("batchwright.providers").joinpath("catalog.toml").read_text(encoding="utf-8")
    entries = {
        name: CatalogEntry(
            name=name,
            title=table["title"],
            kind=table["kind"],
            base_url=table["base_url"],
            api_key_env=tuple(table["api_key_env"]),
            source=table["source"],
        )
        for name, table in tomllib.loads(text).items()
    }
    return MappingProxyType(entries)


def from_environment(environment: Mapping[str, str]) -> list[tuple[CatalogEntry, str]]:
    """The providers whose key is in the environment, each with the variable that holds it."""
    found = ((entry, entry.key_variable(environment)) for entry in catalog().values())
    return [(entry, variable) for entry, variable in found if variable is not None]
