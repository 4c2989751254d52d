"""Routing: from the name of a model to a provider and the name that the model has there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

import msgspec

from batchwright.domain.usage import Usage
from batchwright.engine.lane import Lane
from batchwright.providers.base import Provider

BUILTIN = "builtin"  # found only by its prefix


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices of a model in billionths of a dollar per token."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0

    def cost_nano(self, usage: Usage) -> int:
        fresh = usage.input_tokens - usage.cached_tokens
        return round(
            fresh * self.input
            + usage.cached_tokens * self.cached
            + usage.output_tokens * self.output
        )


@dataclass(frozen=True, slots=True)
class Route:
    """A provider, the name that the model has there, and the lane that its calls take.

    `rates` is None where no price is known.
    """

    provider: Provider
    model: str
    lane: Lane
    rates: Rates | None

    name_json: bytes = field(init=False)  # `provider/model` as JSON, for result lines

    def __post_init__(self) -> None:
        name = f"{self.provider.name}/{self.model.removeprefix(self.provider.name + '/')}"
        object.__setattr__(self, "name_json", msgspec.json.encode(name))


@dataclass(frozen=True, slots=True)
class Account:
    """A configured provider with its lane and the models that it is known to serve.

    `models` are names or globs.
    """

    provider: Provider
    lane: Lane
    models: tuple[str, ...] = ()
    serves_any: bool = False  # every name is answered (rehearsal)


RatesLookup = Callable[[str, str], Rates | None]
"""Looks a price up by name of provider and model; None where none is known."""


class UnknownModel(Exception):
    """Nobody serves the model; the text says what would bring it and names the nearest."""


class Router:
    """Finds routes. Pure look-ups over what the accounts are known to serve.

    `preferences` is `[models."NAME"].routes` of the configuration: routes in order.
    """

    def __init__(
        self,
        accounts: Sequence[Account],
        *,
        preferences: Mapping[str, Sequence[str]] | None = None,
        hints: Mapping[str, str] | None = None,
        rates: RatesLookup | None = None,
    ) -> None:
        self._accounts = {account.provider.name: account for account in accounts}
        self._preferences = dict(preferences or {})
        self._hints = dict(hints or {})
        self._rates = rates
        self._served: dict[str, tuple[str, ...]] = {
            name: account.models for name, account in self._accounts.items()
        }
        self._found: dict[str, Route] = {}
        self.unheard = [account.provider.name for account in self.accounts_to_ask()]
        """Accounts that have not said yet what they serve: an unknown model may be theirs."""

    @property
    def lanes(self) -> list[Lane]:
        return [account.lane for account in self._accounts.values()]

    def learn(self, provider: str, models: Iterable[str]) -> None:
        """Note what an account said that it serves."""
        self._served[provider] = tuple(models)
        self._found.clear()
        if provider in self.unheard:
            self.unheard.remove(provider)

    def accounts_to_ask(self) -> list[Account]:
        """The accounts whose configuration does not say what they serve."""
        return [
            account
            for account in self._accounts.values()
            if not account.models and not account.serves_any
        ]

    def models(self) -> list[tuple[str, str]]:
        """(model name as a client gives it, provider), without globs."""
        listed = {
            name: self.find(name).provider.name
            for name in self._preferences
            if self.explain(name) is None
        }
        for provider, names in self._served.items():
            for name in names:
                if not _is_glob(name):
                    listed.setdefault(name, provider)
        return list(listed.items())

    def find(self, model: str) -> Route:
        """The first route of a model. Raises `UnknownModel`."""
        route = self._found.get(model)
        if route is None:
            route = self._search(model)
            if len(self._found) > _REMEMBERED_MAX:
                self._found.clear()
            self._found[model] = route
        return route

    def explain(self, model: str) -> str | None:
        """Why a model cannot be routed; None if it can."""
        try:
            self.find(model)
        except UnknownModel as error:
            return str(error)
        return None

    def _search(self, model: str) -> Route:
        for named in (*self._preferences.get(model, ()), model):
            route = self._named(named)
            if route is not None:
                return route
        is_builtin = model.startswith(f"{BUILTIN}/")
        for account in self._accounts.values():
            is_offered = not is_builtin and account.provider.name != BUILTIN
            served = self._served[account.provider.name]
            if account.serves_any or (is_offered and _serves(served, model)):
                return self._route(account, model)
        raise UnknownModel(self._message(model))

    def _named(self, model: str) -> Route | None:
        """The route of `provider/model`; None where no such provider is configured."""
        provider, slash, name = model.partition("/")
        account = self._accounts.get(provider) if slash else None
        if account is None:
            return None
        if provider != BUILTIN:
            return self._route(account, name)
        return self._route(account, model) if model in self._served[BUILTIN] else None

    def _route(self, account: Account, model: str) -> Route:
        rates = Rates() if account.serves_any else None  # a rehearsal costs nothing
        if rates is None and self._rates is not None:
            rates = self._rates(account.provider.name, model)
        return Route(account.provider, model, account.lane, rates)

    def _message(self, model: str) -> str:
        names = [name for names in self._served.values() for name in names if not _is_glob(name)]
        near = get_close_matches(model, names, n=3, cutoff=0.5)
        hint = next(
            (text for glob, text in self._hints.items() if fnmatchcase(model, glob)),
            "Name it in a provider's `models`, or as provider/model.",
        )
        if self.unheard:
            hint = f"Not asked with success yet: {', '.join(self.unheard)}. {hint}"
        nearest = f" Nearest: {', '.join(near)}." if near else ""
        return f"The model '{model}' is not served by any configured provider. {hint}{nearest}"


_REMEMBERED_MAX = 10_000


def _serves(served: Sequence[str], model: str) -> bool:
    return any(fnmatchcase(model, name) if _is_glob(name) else name == model for name in served)


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")
