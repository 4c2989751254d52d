"""Routing: from the name of a model to a provider and the name that the model has there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from heapq import nlargest
from operator import add

import msgspec

from batchwright.domain.usage import Usage
from batchwright.engine.estimate import Estimator
from batchwright.engine.lane import Lane
from batchwright.providers.base import Provider

BUILTIN = "builtin"  # found only by its prefix
MODEL_BYTES_MAX = 256  # of UTF-8: a longer name is nobody's


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices of a model in billionths of a dollar per token."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0

    def cost_nano(self, usage: Usage) -> int:
        # Some providers count the cached tokens beside the others, not among them.
        fresh = max(0, usage.input_tokens - usage.cached_tokens)
        return round(
            fresh * self.input
            + usage.cached_tokens * self.cached
            + usage.output_tokens * self.output
        )


@dataclass(frozen=True, slots=True)
class Route:
    """A provider, the name that the model has there, and the lane that its calls take.

    `rates` is None where no price is known. `tokens` is what the answers were like lately.
    """

    provider: Provider
    model: str
    lane: Lane
    rates: Rates | None

    tokens: Estimator = field(default_factory=Estimator, init=False, compare=False)
    name_json: bytes = field(init=False)  # `provider/model` as JSON, for result lines

    def __post_init__(self) -> None:
        name = f"{self.provider.name}/{self.model.removeprefix(self.provider.name + '/')}"
        object.__setattr__(self, "name_json", msgspec.json.encode(name))
        self.tokens.model = self.model


@dataclass(frozen=True, slots=True)
class Account:
    """A configured provider with its lane and the models that it is known to serve.

    `models` are names or globs; where there are any, it is used for no others.
    """

    provider: Provider
    lane: Lane
    models: tuple[str, ...] = ()  # as configured; empty: it is asked
    serves_any: bool = False  # every name is answered (rehearsal)


RatesLookup = Callable[[str, str], Rates | None]
"""Looks a price up by name of provider and model; None where none is known."""


class UnknownModel(Exception):
    """Nobody serves the model; the text says what would bring it and names the nearest.

    It is short, however long the name was.
    """


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
        self._pairs: dict[str, frozenset[str]] | None = None  # of all names that are served
        self.unheard = [account.provider.name for account in self.accounts_to_ask()]
        """Accounts that have not said yet what they serve: an unknown model may be theirs."""

    @property
    def lanes(self) -> list[Lane]:
        return [account.lane for account in self._accounts.values()]

    def learn(self, provider: str, models: Iterable[str]) -> None:
        """Note what an account said that it serves."""
        self._served[provider] = tuple(models)
        self._found.clear()
        self._pairs = None
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
        route = self._look_up(model)
        if route is None:
            raise UnknownModel(self._message(model, with_nearest=True))
        return route

    def explain(self, model: str, *, with_nearest: bool = True) -> str | None:
        """Why a model cannot be routed; None if it can.

        To seek the nearest names takes about a millisecond.
        """
        is_found = self._look_up(model) is not None
        return None if is_found else self._message(model, with_nearest=with_nearest)

    def may_come(self, model: str) -> bool:
        """Whether an account that has not said yet what it serves may turn out to serve a model."""
        is_builtin = model.startswith(f"{BUILTIN}/")
        return bool(self.unheard) and not is_builtin and not _is_too_long(model)

    def _look_up(self, model: str) -> Route | None:
        route = self._found.get(model)
        if route is None and not _is_too_long(model):
            route = self._search(model)
            if route is not None:
                self._remember(model, route)
        return route

    def _remember(self, model: str, route: Route) -> None:
        if len(self._found) > _REMEMBERED_MAX:
            self._found.clear()
        self._found[model] = route

    def _search(self, model: str) -> Route | None:
        for preferred in self._preferences.get(model, ()):
            route = self._named(preferred, is_configured=True)
            if route is not None:
                return route
        return self._named(model) or self._offered(model)

    def _named(self, model: str, *, is_configured: bool = False) -> Route | None:
        """The route of `provider/model`; None where no such provider is configured for it.

        A route that the configuration names outright needs no leave of the provider's `models`.
        """
        provider, slash, name = model.partition("/")
        account = self._accounts.get(provider) if slash else None
        if account is None:
            return None
        if provider == BUILTIN:
            return self._route(account, model) if model in self._served[BUILTIN] else None
        is_used_for = is_configured or not account.models or _serves(account.models, name)
        return self._route(account, name) if is_used_for else None

    def _offered(self, model: str) -> Route | None:
        """The route to the first account that serves a model of this name."""
        is_builtin = model.startswith(f"{BUILTIN}/")
        for account in self._accounts.values():
            is_offered = not is_builtin and account.provider.name != BUILTIN
            served = self._served[account.provider.name]
            if account.serves_any or (is_offered and _serves(served, model)):
                return self._route(account, model)
        return None

    def _route(self, account: Account, model: str) -> Route:
        rates = Rates() if account.serves_any else None  # a rehearsal costs nothing
        if rates is None and self._rates is not None:
            rates = self._rates(account.provider.name, model)
        return Route(account.provider, model, account.lane, rates)

    def _message(self, model: str, *, with_nearest: bool) -> str:
        if _is_too_long(model):
            return f"The model {_shown(model)} has a name of more than {MODEL_BYTES_MAX} bytes."
        text = f"The model {_shown(model)} is not served by any configured provider."
        if self.unheard:
            text += f" Not asked with success yet: {', '.join(self.unheard)}."
        text += f" {self._hint(model)}"
        near = self._nearest(model) if with_nearest else []
        return f"{text} Nearest: {', '.join(near)}." if near else text

    def _hint(self, model: str) -> str:
        provider, slash, _ = model.partition("/")
        if slash and provider != BUILTIN and provider in self._accounts:
            return f"'{provider}' is configured for other models: its `models` must name it."
        return next(
            (text for glob, text in self._hints.items() if fnmatchcase(model, glob)),
            "Name it in a provider's `models`, or as provider/model.",
        )

    def _nearest(self, model: str) -> list[str]:
        """The names most like a model's.

        A provider may serve hundreds, and to compare two names exactly takes long: only those
        are compared that share the most pairs of letters with it.
        """
        wanted, pairs = _pairs(model), self._pairs
        if pairs is None:
            names = [name for served in self._served.values() for name in served]
            pairs = {name: _pairs(name) for name in names if not _is_glob(name)}
            self._pairs = pairs

        def likeness(name: str) -> int:
            return 2 * len(wanted & pairs[name]) - len(pairs[name])

        return get_close_matches(model, nlargest(_COMPARED_MAX, pairs, likeness), n=3, cutoff=0.5)


class ModelCheck:
    """What is wrong with the models of one file, for its validation. Called from any thread.

    A model passes too where it may come with an account that has not said yet what it serves:
    whoever sends the request waits for that. The nearest names are sought for the first few.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._refused = 0

    def __call__(self, model: str, _endpoint: str) -> str | None:
        if self._router.may_come(model):
            return None
        problem = self._router.explain(model, with_nearest=self._refused < _HINTED_MAX)
        self._refused += problem is not None
        return problem


_REMEMBERED_MAX = 10_000
_HINTED_MAX = 20
_COMPARED_MAX = 20
_SHOWN_CHARS = 100


def _is_too_long(model: str) -> bool:
    return len(model) > MODEL_BYTES_MAX or len(model.encode()) > MODEL_BYTES_MAX


def _shown(model: str) -> str:
    """The name as it may stand in a message: short, with its control characters escaped."""
    return repr(model if len(model) <= _SHOWN_CHARS else f"{model[:_SHOWN_CHARS]}…")


def _pairs(name: str) -> frozenset[str]:
    return frozenset(map(add, name, name[1:]))


def _serves(served: Sequence[str], model: str) -> bool:
    return any(fnmatchcase(model, name) if _is_glob(name) else name == model for name in served)


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")
