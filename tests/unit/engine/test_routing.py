"""Routing: which provider a model's name leads to, and what is said when none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import pytest

from batchwright.domain.usage import Usage
from batchwright.engine import routing
from batchwright.engine.lane import Lane, LaneLimits
from batchwright.engine.routing import Account, ModelCheck, Rates, Router, UnknownModel
from simulation import ScriptedNetwork, ScriptedProvider, VirtualRuntime

BUILTIN = ("builtin", ("builtin/sentiment", "builtin/echo"))


class StillRuntime(VirtualRuntime):
    def monotonic(self) -> float:
        return 0.0


def account(name: str, *models: str, serves_any: bool = False) -> Account:
    provider = ScriptedProvider(ScriptedNetwork(Random(1)))
    provider.name = name
    lane = Lane(name, limits=LaneLimits(), runtime=StillRuntime(Random(1)))
    return Account(provider, lane, tuple(models), serves_any)


def router(
    *accounts: tuple[str, Sequence[str]],
    preferences: Mapping[str, Sequence[str]] | None = None,
    hints: Mapping[str, str] | None = None,
) -> Router:
    made = [account(name, *models) for name, models in accounts]
    return Router(made, preferences=preferences, hints=hints)


def found(routes: Router, model: str) -> tuple[str, str]:
    route = routes.find(model)
    return route.provider.name, route.model


def test_a_model_is_found_by_its_name_in_the_order_of_the_file() -> None:
    routes = router(("one", ["a", "b"]), ("two", ["b", "c"]))
    assert [found(routes, m) for m in "abc"] == [("one", "a"), ("one", "b"), ("two", "c")]


def test_globs_match_names_whole_and_with_case() -> None:
    routes = router(("one", ["gpt-*", "text-embedding-3-*"]), ("two", ["o[13]"]))
    assert found(routes, "gpt-5-mini") == ("one", "gpt-5-mini")
    assert found(routes, "o3") == ("two", "o3")
    for model in ("GPT-5", "my-gpt-5", "text-embedding-2-small", "o2", ""):
        with pytest.raises(UnknownModel):
            routes.find(model)


def test_a_provider_may_be_named_outright_and_gets_its_own_name_of_the_model() -> None:
    routes = router(("one", ["a"]), ("two", []))
    routes.learn("two", ["a"])
    assert found(routes, "two/a") == ("two", "a")
    assert found(routes, "two/not-listed") == ("two", "not-listed")
    assert routes.find("two/a").name_json == b'"two/a"'


def test_a_provider_named_outright_is_used_for_the_models_of_its_configuration_only() -> None:
    routes = router(("one", ["gpt-*"]), ("hub", ["one/free"]))
    assert found(routes, "one/gpt-5") == ("one", "gpt-5")
    assert found(routes, "one/free") == ("hub", "one/free")
    with pytest.raises(UnknownModel, match="'one' is configured for other models"):
        routes.find("one/o3-pro")


def test_a_preference_may_name_what_the_models_of_its_provider_leave_out() -> None:
    routes = router(("one", ["gpt-*"]), preferences={"cheap": ["one/o3-mini"]})
    assert found(routes, "cheap") == ("one", "o3-mini")
    with pytest.raises(UnknownModel):
        routes.find("one/o3-mini")


@pytest.mark.parametrize("unit", ["m", "é", "m\n"])
def test_a_name_that_is_no_models_is_refused_and_shown_short(unit: str) -> None:
    routes = Router([account("sandbox", serves_any=True)])
    longest = (unit * 256).encode()[:256].decode()
    assert routes.find(longest).model == longest
    for model in (longest + unit, unit * 1_000_000):
        problem = routes.explain(model)
        assert problem is not None
        assert "256 bytes" in problem
        assert "\n" not in problem
        assert len(problem) < 300
    assert routes._found.keys() == {longest}


def test_the_message_about_an_unknown_model_shows_its_name_short() -> None:
    problem = router(("one", ["a"])).explain("\x1b[2J" + "x" * 250)
    assert problem is not None
    assert "'\\x1b[2Jxxx" in problem
    assert len(problem) < 300


def test_the_nearest_names_are_left_out_where_nobody_would_read_them() -> None:
    routes = router(("one", ["gpt-5-mini"]))
    assert "Nearest: gpt-5-mini." in str(routes.explain("gpt-5-mni"))
    assert "Nearest" not in str(routes.explain("gpt-5-mni", with_nearest=False))


def test_the_check_of_a_file_seeks_the_nearest_names_for_its_first_faults_only() -> None:
    check = ModelCheck(router(("one", ["gpt-5-mini"])))
    problems = [check(f"gpt-5-mni-{number}", "/v1/embeddings") for number in range(100)]
    assert check("gpt-5-mini", "/v1/embeddings") is None
    assert all(problem is not None and "not served" in problem for problem in problems)
    assert sum("Nearest" in str(problem) for problem in problems) == 20


def test_the_check_of_a_file_passes_a_model_that_may_still_come() -> None:
    routes = router(("one", ["a"]), ("two", []))
    check = ModelCheck(routes)
    assert check("b", "/v1/embeddings") is None
    routes.learn("two", ["c"])
    assert "not served" in str(check("b", "/v1/embeddings"))


def test_the_nearest_are_sought_among_few_of_many_names(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def near(word: str, names: Sequence[str], **_: object) -> list[str]:
        compared.append(len(names))
        return list(names[:1])

    monkeypatch.setattr(routing, "get_close_matches", near)
    routes = router(("one", [f"family-{n}/model-{n}" for n in range(2_000)] + ["gpt-5-mini"]))
    assert "Nearest: gpt-5-mini." in str(routes.explain("gpt-5-mni"))
    assert max(compared) <= 20


def test_a_model_may_come_with_an_account_that_has_not_said_what_it_serves() -> None:
    routes = router(BUILTIN, ("one", ["a"]), ("two", []))
    assert routes.may_come("b")
    assert not routes.may_come("builtin/sentment")
    assert not routes.may_come("b" * 257)
    routes.learn("two", ["c"])
    assert not routes.may_come("b")


def test_a_configured_providers_name_wins_over_a_slash_in_a_models_name() -> None:
    routes = router(("hub", ["meta/llama", "hub/x"]), ("meta", ["llama"]))
    assert found(routes, "meta/llama") == ("meta", "llama")
    assert found(routes, "hub/meta/llama") == ("hub", "meta/llama")


def test_a_slash_in_a_models_name_is_no_prefix_where_no_provider_has_that_name() -> None:
    routes = router(("hub", ["meta-llama/*"]))
    assert found(routes, "meta-llama/llama-4") == ("hub", "meta-llama/llama-4")


def test_builtin_is_found_by_its_prefix_alone() -> None:
    routes = router(BUILTIN, ("one", ["sentiment"]))
    assert found(routes, "builtin/sentiment") == ("builtin", "builtin/sentiment")
    assert routes.find("builtin/sentiment").name_json == b'"builtin/sentiment"'
    assert found(routes, "sentiment") == ("one", "sentiment")
    with pytest.raises(UnknownModel):
        routes.find("echo")


def test_a_misspelt_builtin_model_goes_to_nobody_else() -> None:
    routes = router(BUILTIN, ("one", ["*"]))
    with pytest.raises(UnknownModel, match="builtin/sentiment"):
        routes.find("builtin/sentment")


def test_preferences_come_first_and_skip_what_is_not_configured() -> None:
    routes = router(
        ("one", ["m"]),
        ("two", ["m"]),
        BUILTIN,
        preferences={
            "m": ["absent/m", "two/m-in-europe", "one/m"],
            "n": ["absent/n"],
            "mood": ["builtin/sentiment"],
        },
    )
    assert found(routes, "m") == ("two", "m-in-europe")
    assert found(routes, "mood") == ("builtin", "builtin/sentiment")
    with pytest.raises(UnknownModel):
        routes.find("n")


def test_a_rehearsal_answers_every_name() -> None:
    routes = Router([account("sandbox", serves_any=True)])
    assert found(routes, "anything/at:all") == ("sandbox", "anything/at:all")


def test_what_an_account_says_that_it_serves_is_learned_and_forgotten() -> None:
    routes = router(("one", []), ("two", ["named"]))
    assert [a.provider.name for a in routes.accounts_to_ask()] == ["one"]
    assert routes.explain("late") is not None
    routes.learn("one", ["late"])
    assert found(routes, "late") == ("one", "late")
    routes.learn("one", ["later"])
    assert routes.explain("late") is not None


def test_an_unknown_model_is_told_with_what_would_bring_it_and_the_nearest_names() -> None:
    routes = router(
        BUILTIN,
        ("one", ["gpt-5-mini", "gpt-5", "claude-*"]),
        hints={"gemini-*": "Set GEMINI_API_KEY."},
    )
    misspelt = routes.explain("gpt-5-mni")
    assert misspelt is not None
    assert "'gpt-5-mni' is not served" in misspelt
    assert "Nearest: gpt-5-mini, gpt-5." in misspelt
    assert "provider/model" in misspelt
    hinted = routes.explain("gemini-3-pro")
    assert hinted is not None
    assert "Set GEMINI_API_KEY." in hinted
    assert "claude-*" not in hinted
    assert routes.explain("gpt-5") is None


def test_the_list_of_models_has_each_name_once_and_no_globs() -> None:
    routes = router(
        ("one", ["a", "gpt-*"]),
        ("two", ["a", "b"]),
        BUILTIN,
        preferences={"b": ["two/b"], "nowhere": ["absent/x"], "alias": ["one/a"]},
    )
    assert sorted(routes.models()) == [
        ("a", "one"),
        ("alias", "one"),
        ("b", "two"),
        ("builtin/echo", "builtin"),
        ("builtin/sentiment", "builtin"),
    ]


def test_many_names_of_models_do_not_fill_the_memory() -> None:
    routes = router(("one", ["*"]))
    for number in range(25_000):
        routes.find(f"m-{number}")
    assert len(routes._found) <= 10_001


def test_prices_follow_the_provider_and_the_name_that_the_model_has_there() -> None:
    asked: list[tuple[str, str]] = []

    def rates(provider: str, model: str) -> Rates | None:
        asked.append((provider, model))
        return Rates(2.0, 0.5, 8.0) if model == "b" else None

    routes = Router([account("one", "a", "b")], rates=rates)
    assert routes.find("a").rates is None
    priced = routes.find("one/b").rates
    assert priced is not None
    assert priced.cost_nano(Usage(100, 40, 10, 5)) == 60 * 2 + 40 * 0.5 + 10 * 8
    assert asked == [("one", "a"), ("one", "b")]


def test_more_cached_tokens_than_tokens_cost_nothing_less() -> None:
    assert Rates(2.0, 0.5, 8.0).cost_nano(Usage(10, 40, 1, 0)) == 40 * 0.5 + 8
