"""Settings: layers, checks and messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchwright.config import Config, effective_settings, load_config
from batchwright.domain.errors import ConfigError
from batchwright.domain.key import make_token

KEY = "sk-canary-0123456789"
OWN_VARIABLE = '[providers.openai]\napi_key = "env:MY_KEY"'


def load(folder: Path, text: str | None = None, **settings: Any) -> Config:
    """Settings of a folder with `batchwright.toml` in it; `environment` is the whole of it."""
    if text is not None:
        (folder / "batchwright.toml").write_text(text)
    environment = {"HOME": str(folder / "home"), **settings.pop("environment", {})}
    return load_config(folder=folder, environment=environment, **settings)


def problems(folder: Path, text: str = "", **settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(folder, text, **settings)
    lines = str(raised.value).splitlines()
    return [line.strip() for line in (lines if len(lines) == 1 else lines[1:])]


# Layers


def test_without_anything_the_defaults_hold_and_no_provider_is_on(tmp_path: Path) -> None:
    config = load(tmp_path)

    assert (config.server.host, config.server.port) == ("127.0.0.1", 8000)
    assert config.data_dir == tmp_path / "batchwright-data"
    assert config.providers == {}
    assert config.file is None


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    text = "[server]\nport = 1\nhost = 'a'\n[limits]\nmax_attempts = 2"
    environment = {"BATCHWRIGHT_SERVER__PORT": "2", "BATCHWRIGHT_SERVER__HOST": "b"}

    config = load(tmp_path, text, environment=environment, flags={"server.port": 3})

    assert (config.server.port, config.server.host, config.limits.max_attempts) == (3, "b", 2)
    origins = {each.key: each.origin for each in effective_settings(config)}
    assert origins["server.port"] == "--port"
    assert origins["server.host"] == "BATCHWRIGHT_SERVER__HOST"
    assert origins["limits.max_attempts"] == str(tmp_path / "batchwright.toml")
    assert origins["limits.file_mb"] == "default"


def test_a_flag_that_is_not_given_changes_nothing(tmp_path: Path) -> None:
    config = load(tmp_path, "[server]\nport = 1", flags={"server.port": None})

    assert config.server.port == 1


def test_a_value_set_to_its_default_is_told_from_one_that_is_not_set(tmp_path: Path) -> None:
    config = load(tmp_path, "[server]\nport = 8000")

    origins = {each.key: each.origin for each in effective_settings(config)}
    assert origins["server.port"] == str(tmp_path / "batchwright.toml")


def test_the_file_of_the_user_is_taken_where_the_folder_has_none(tmp_path: Path) -> None:
    home = tmp_path / "xdg" / "batchwright"
    home.mkdir(parents=True)
    (home / "config.toml").write_text("[server]\nport = 7\n")

    config = load(tmp_path, environment={"XDG_CONFIG_HOME": str(tmp_path / "xdg")})

    assert config.server.port == 7
    assert config.file == home / "config.toml"


def test_a_named_file_is_taken_instead_of_the_one_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[server]\nport = 9\n")

    config = load(tmp_path, "[server]\nport = 1", file="other.toml")

    assert config.server.port == 9


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config: expected a file that exists"):
        load(tmp_path, file="no.toml")


def test_paths_in_a_file_count_from_its_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "c.toml").write_text(
        'data_dir = "data"\n[providers.a]\nbase_url = "http://a/v1"\napi_key = "file:key"\n'
    )
    (inner / "key").write_text(f"{KEY}\n")

    config = load(tmp_path, file="inner/c.toml")

    assert config.data_dir == inner / "data"
    assert config.providers["a"].api_key is not None
    assert config.providers["a"].api_key.value == KEY


def test_numbers_lists_and_flags_are_read_from_variables(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        environment={
            "BATCHWRIGHT_LIMITS__REQUESTS_PER_BATCH": "0",
            "BATCHWRIGHT_LIMITS__ONE_MODEL_PER_FILE": "true",
            "BATCHWRIGHT_LIMITS__EXTRA_ENDPOINTS": "/v1/rerank, /v1/audio/speech",
            "BATCHWRIGHT_LIMITS__GRACE_S": "2.5",
            "BATCHWRIGHT_PROVIDERS__LOCAL__BASE_URL": "http://127.0.0.1:1/v1",
            "BATCHWRIGHT_PROVIDERS__LOCAL__MODELS": '["a", "b-*"]',
            "BATCHWRIGHT_PROVIDERS__LOCAL__API_KEY": KEY,
        },
    )

    assert config.limits.requests_per_batch is None
    assert config.limits.one_model_per_file is True
    assert config.limits.extra_endpoints == ("/v1/rerank", "/v1/audio/speech")
    assert config.limits.grace_s == 2.5
    assert config.providers["local"].models == ("a", "b-*")
    assert config.providers["local"].api_key is not None
    assert config.providers["local"].api_key.value == KEY


def test_a_variable_reaches_the_provider_of_the_file_that_has_a_dash(tmp_path: Path) -> None:
    text = "[providers.azure-eu]\nbase_url = 'http://a/v1'"
    environment = {"BATCHWRIGHT_PROVIDERS__AZURE_EU__TIMEOUT_S": "5"}

    config = load(tmp_path, text, environment=environment)

    assert list(config.providers) == ["azure-eu"]
    assert config.providers["azure-eu"].timeout_s == 5


# Providers


def test_every_provider_whose_key_is_in_the_environment_is_on(tmp_path: Path) -> None:
    config = load(tmp_path, environment={"OPENAI_API_KEY": KEY, "GROQ_API_KEY": "g"})

    assert set(config.providers) == {"openai", "groq"}
    assert config.providers["openai"].base_url == "https://api.openai.com/v1"


def test_with_a_providers_table_only_those_in_it_are_on(tmp_path: Path) -> None:
    text = "[providers.vllm]"
    environment = {"OPENAI_API_KEY": KEY}

    assert set(load(tmp_path, text, environment=environment).providers) == {"vllm"}
    both = "providers_from_environment = true\n" + text
    assert set(load(tmp_path, both, environment=environment).providers) == {"vllm", "openai"}


def test_a_known_provider_needs_its_name_alone(tmp_path: Path) -> None:
    environment = {"OPENAI_API_KEY": KEY}
    config = load(tmp_path, "[providers.openai]\nmax_concurrency = 7", environment=environment)

    provider = config.providers["openai"]
    assert (provider.kind, provider.max_concurrency) == ("openai", 7)
    assert provider.api_key is not None
    assert provider.api_key.value == KEY


def test_the_usual_key_is_never_sent_to_another_address(tmp_path: Path) -> None:
    text = "[providers.openai]\nbase_url = 'http://elsewhere/v1'"

    config = load(tmp_path, text, environment={"OPENAI_API_KEY": KEY})

    assert config.providers["openai"].api_key is None


@pytest.mark.parametrize("text", ["", "[providers.openai]", OWN_VARIABLE])
def test_a_key_of_a_batchwright_server_is_never_sent_to_a_provider(
    tmp_path: Path, text: str
) -> None:
    ours = make_token(bytes(range(40)))
    environment = {"OPENAI_API_KEY": ours, "MY_KEY": ours}

    [problem] = problems(tmp_path, text, environment=environment)

    assert problem.startswith("providers.openai.api_key: expected a key of OpenAI, got one of a ")
    assert ours not in problem
    assert not load(tmp_path, text, environment=environment, with_providers=False).providers


def test_another_batchwright_server_may_be_a_provider(tmp_path: Path) -> None:
    ours = make_token(bytes(range(40)))
    text = '[providers.other]\nbase_url = "https://b.example/v1"\napi_key = "env:OPENAI_API_KEY"'

    config = load(tmp_path, text, environment={"OPENAI_API_KEY": ours})

    key = config.providers["other"].api_key
    assert key is not None
    assert key.value == ours


def test_the_order_of_the_file_is_kept(tmp_path: Path) -> None:
    text = "".join(f"[providers.{name}]\nbase_url = 'http://{name}/v1'\n" for name in "zam")

    assert list(load(tmp_path, text).providers) == ["z", "a", "m"]


def test_no_key_is_asked_for_where_no_provider_is_needed(tmp_path: Path) -> None:
    text = "[providers.openai]\napi_key = 'env:NOT_THERE'"

    assert load(tmp_path, text, with_providers=False).providers == {}


def test_routes_name_configured_providers(tmp_path: Path) -> None:
    text = "[providers.a]\nbase_url = 'http://a/v1'\n[models.'m']\nroutes = ['a/m', 'b/m']"

    [problem] = problems(tmp_path, text)

    assert problem == "models.m.routes: expected configured providers (a, builtin), got 'b/m'"


# Secrets


def test_no_secret_shows_in_any_text(tmp_path: Path) -> None:
    text = """
    [providers.a]
    base_url = "http://a/v1"
    api_key = "env:A_KEY"
    proxy = "http://user:canary-proxy@proxy:1"
    headers = { "x-key" = "canary-header" }
    """
    environment = {"A_KEY": KEY, "BATCHWRIGHT_ADMIN_KEY": "canary" * 10}

    config = load(tmp_path, text, environment=environment)

    shown = repr(config) + str(list(effective_settings(config)))
    assert "canary" not in shown
    assert "env:A_KEY" in shown


def test_a_secret_written_into_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = f"[providers.a]\nbase_url = 'http://a/v1'\napi_key = '{KEY}'"

    [problem] = problems(tmp_path, text)

    assert 'providers.a.api_key: expected "env:NAME" or "file:PATH"' in problem
    assert KEY not in problem


def test_a_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    text = "[providers.a]\nbase_url = 'http://a/v1'\napi_key = 'env:A_KEY'"

    [problem] = problems(tmp_path, text)

    assert "providers.a.api_key: expected the variable A_KEY to be set" in problem


@pytest.mark.parametrize("key", ["too-short", "with a space " * 5, "é" * 40])
def test_an_admin_key_that_no_client_could_send_is_refused(tmp_path: Path, key: str) -> None:
    [problem] = problems(tmp_path, environment={"BATCHWRIGHT_ADMIN_KEY": key})

    assert problem.startswith("BATCHWRIGHT_ADMIN_KEY: expected 32 or more")
    assert key not in problem


# Checks


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    text = """
    data_dri = "x"
    [server]
    port = 70000
    [limits]
    file_mb = "many"
    [providers.opnai]
    [models."a b"]
    routes = "a"
    """

    found = problems(tmp_path, text, environment={"BATCHWRIGHT_SERVER__HSOT": "x"})

    file = tmp_path / "batchwright.toml"
    assert found == [
        f"data_dri: no such setting ({file}); nearest: data_dir",
        "server.hsot: no such setting (BATCHWRIGHT_SERVER__HSOT); nearest: server.host",
        f"server.port: expected a whole number from 0 to 65,535, got 70000 ({file})",
        f"limits.file_mb: expected a whole number from 1 to 1,000,000, got 'many' ({file})",
        "providers.opnai.base_url: expected a URL, as 'opnai' is no known provider; "
        "nearest: openai",
        'models."a b".routes: expected a list of texts such as ["gpt-*", "o4-mini"], '
        f"got 'a' ({file})",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server = 1", "server: expected a table [server]"),
        ("[providers]\na = 1", "providers.a: expected a table [providers.a]"),
        ("[server]\nport = true", "server.port: expected a whole number"),
        ("[server]\nport = 1.5", "server.port: expected a whole number"),
        ("[server]\nport = nan", "server.port: expected a whole number"),
        ("[server]\nport = '1'", "server.port: expected a whole number"),
        ("[limits]\ngrace_s = inf", "limits.grace_s: expected a number from 0 to 3,600"),
        ("[limits]\none_model_per_file = 1", "limits.one_model_per_file: expected true or false"),
        ("[limits]\nextra_endpoints = ['images']", "limits.extra_endpoints: expected a list of"),
        ("[server]\ntls_cert_file = 'no.pem'", "server.tls_cert_file: expected the path of a"),
        ("[providers.builtin]", "providers.builtin: the embedded provider is always on"),
        ("[providers.'a/b']", 'providers."a/b": expected a name of letters'),
        ("[providers.a]\nkind = 'opena'", "providers.a.kind: expected one of openai, "),
        ("[providers.a]\nbase_url = 'a/v1'", "providers.a.base_url: expected a URL"),
        ("[providers.a]\nbase_url = 'http://u:p@a'", "providers.a.base_url: expected a URL with"),
        ("[providers.openai]", "providers.openai.api_key: expected the variable OPENAI_API_KEY"),
        ("not toml", "expected a TOML file"),
    ],
)
def test_a_wrong_setting_is_told_by_key_and_expectation(
    tmp_path: Path, text: str, expected: str
) -> None:
    [problem] = problems(tmp_path, text)

    assert expected in problem


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("-")

    [problem] = problems(tmp_path, "[server]\ntls_cert_file = 'c.pem'")

    assert "expected together with server.tls_key_file" in problem


def test_a_slip_in_a_variable_is_told_and_those_of_kubernetes_are_not(tmp_path: Path) -> None:
    kubernetes = {"BATCHWRIGHT_PORT": "tcp://10.0.0.1:80", "BATCHWRIGHT_SERVICE_HOST": "10.0.0.1"}

    [problem] = problems(tmp_path, environment={**kubernetes, "BATCHWRIGHT_DATADIR": "x"})

    assert problem == (
        "BATCHWRIGHT_DATADIR: no such setting (environment); nearest: BATCHWRIGHT_DATA_DIR"
    )
