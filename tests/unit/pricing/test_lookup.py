"""Prices from the offline snapshot."""

from __future__ import annotations

import socket

import pytest

from batchwright.domain.usage import Usage
from batchwright.engine.routing import Rates
from batchwright.pricing.lookup import rates
from batchwright.providers.catalog import catalog

OPENAI = "https://api.openai.com/v1"


def test_a_known_model_has_rates_in_billionths_of_a_dollar_per_token() -> None:
    found = rates("openai", "gpt-4o-mini", OPENAI)

    assert found == Rates(input=150.0, cached=75.0, output=600.0)
    assert found.cost_nano(Usage(1_000_000, 0, 1_000_000, 0)) == 750_000_000


def test_an_embedding_model_costs_nothing_for_output() -> None:
    assert rates("openai", "text-embedding-3-small", OPENAI) == Rates(20.0, 20.0, 0.0)


def test_without_an_address_the_kind_says_who_it_is() -> None:
    assert rates("openai", "gpt-4o-mini") == rates("openai", "gpt-4o-mini", OPENAI)


def test_a_price_by_tiers_is_that_of_short_prompts() -> None:
    found = rates("google", "gemini-2.5-pro")

    assert found is not None
    assert found.input == 1250.0


@pytest.mark.parametrize(
    ("kind", "model", "base_url"),
    [
        ("openai", "no-such-model", OPENAI),
        ("openai", "gpt-4o-mini", "http://127.0.0.1:8000/v1"),
        ("no-such-kind", "gpt-4o-mini", None),
    ],
)
def test_what_is_not_known_has_no_rates(kind: str, model: str, base_url: str | None) -> None:
    assert rates(kind, model, base_url) is None


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("deepseek", "deepseek-chat"),
        ("groq", "llama-3.3-70b-versatile"),
        ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("mistral", "mistral-small-latest"),
        ("openrouter", "openai/gpt-4o-mini"),
        ("gemini", "gemini-2.5-flash"),
        ("xai", "grok-4"),
    ],
)
def test_a_provider_of_the_catalogue_is_known_by_its_address(name: str, model: str) -> None:
    assert rates(name, model, catalog()[name].base_url) is not None


@pytest.mark.parametrize("kind", ["builtin", "sandbox"])
def test_what_runs_in_this_process_is_free(kind: str) -> None:
    assert rates(kind, "any") == Rates()


def test_no_network_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    rates.cache_clear()

    assert rates("openai", "gpt-4o", OPENAI) is not None
