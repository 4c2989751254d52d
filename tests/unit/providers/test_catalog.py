from __future__ import annotations

from typing import Any, cast

import pytest

from batchwright.providers.catalog import CatalogEntry, catalog, from_environment
from batchwright.providers.openai import OpenAIProvider


@pytest.mark.parametrize("entry", catalog().values(), ids=lambda entry: entry.name)
def test_every_entry_makes_a_provider(entry: CatalogEntry) -> None:
    made = OpenAIProvider(entry.name, entry.base_url, "key", cast(Any, None))

    assert made.kind == entry.kind
    assert made.prepare("/v1/chat/completions", b"{}").url == f"{entry.base_url}/chat/completions"
    assert entry.source.startswith("https://")


@pytest.mark.parametrize("entry", catalog().values(), ids=lambda entry: entry.name)
def test_a_key_goes_over_tls_and_a_local_provider_has_none(entry: CatalogEntry) -> None:
    if entry.is_local:
        assert entry.base_url.startswith("http://127.0.0.1:")
    else:
        assert entry.base_url.startswith("https://")


def test_no_variable_belongs_to_two_providers() -> None:
    variables = [name for entry in catalog().values() for name in entry.api_key_env]

    assert len(variables) == len(set(variables))


def test_the_environment_turns_on_the_providers_whose_key_it_holds() -> None:
    environment = {"GROQ_API_KEY": "k", "OPENAI_API_KEY": "k", "XAI_API_KEY": "", "HOME": "/"}

    found = [(entry.name, variable) for entry, variable in from_environment(environment)]

    assert found == [("openai", "OPENAI_API_KEY"), ("groq", "GROQ_API_KEY")]


def test_of_two_variables_the_usual_one_counts() -> None:
    gemini = catalog()["gemini"]

    assert gemini.key_variable({"GOOGLE_API_KEY": "a", "GEMINI_API_KEY": "b"}) == "GEMINI_API_KEY"
    assert gemini.key_variable({"GOOGLE_API_KEY": "a"}) == "GOOGLE_API_KEY"
    assert gemini.key_variable({}) is None
