"""The composition root: what a configuration becomes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from batchwright.config import Config, load_config
from batchwright.domain.errors import ConfigError, Damaged, Locked
from batchwright.domain.key import digest_of, lookup_id, public_id
from batchwright.wiring import ensure_admin_key, open_node

GIVEN = "a-key-that-the-operator-has-chosen-0123456789"


def config_of(folder: Path, text: str = "", **environment: str) -> Config:
    (folder / "batchwright.toml").write_text(text)
    return load_config(folder=folder, environment=environment)


async def is_known(config: Config, token: str) -> bool:
    """Whether the store would let the token in."""
    async with open_node(config) as node:
        key = await node.store.find_key(lookup_id(token))
        is_same = key is not None and key.digest == digest_of(node.pepper, token)
        return key is not None and is_same and key.revoked_at is None


async def first_key(config: Config) -> str | None:
    async with open_node(config) as node:
        return await ensure_admin_key(node)


async def test_a_new_data_directory_is_private_with_all_that_is_in_it(tmp_path: Path) -> None:
    config = config_of(tmp_path)

    await first_key(config)

    assert stat.S_IMODE(config.data_dir.stat().st_mode) == 0o700
    for name in ("pepper", "admin.key", "lock", "batchwright.db"):
        assert stat.S_IMODE((config.data_dir / name).stat().st_mode) == 0o600, name


async def test_any_name_of_a_data_directory_will_do(tmp_path: Path) -> None:
    folder = tmp_path / "50%20 of? it #é"

    async with open_node(load_config(flags={"data_dir": folder}, environment={})):
        pass

    assert (folder / "batchwright.db").exists()
    assert list(tmp_path.iterdir()) == [folder]


async def test_the_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    config = config_of(tmp_path)

    async with open_node(config):
        with pytest.raises(Locked, match=r"is in use by process \d+ on .+ since 20"):
            async with open_node(config):
                pass
    async with open_node(config):
        pass


async def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    config.data_dir.mkdir()
    config.data_dir.chmod(0o770)

    with pytest.raises(ConfigError, match="with mode 770; run: chmod 700"):
        await first_key(config)


async def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    config.data_dir.write_text("")

    with pytest.raises(ConfigError, match="data_dir: expected a folder, got the file"):
        await first_key(config)


async def test_a_lost_pepper_is_damage_and_not_made_anew(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    await first_key(config)
    (config.data_dir / "pepper").unlink()

    with pytest.raises(Damaged, match="no API key is known: restore it"):
        await first_key(config)


async def test_the_first_start_makes_an_admin_key_and_later_ones_do_not(tmp_path: Path) -> None:
    config = config_of(tmp_path)

    token = await first_key(config)

    assert token is not None
    assert public_id(token) is not None
    assert (config.data_dir / "admin.key").read_text() == token + "\n"
    assert await first_key(config) is None
    assert await is_known(config, token)


async def test_a_first_start_that_was_killed_after_the_file_is_made_good(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    token = await first_key(config)
    (config.data_dir / "batchwright.db").unlink()

    assert await first_key(config) == token
    assert token is not None
    assert await is_known(config, token)


async def test_a_given_admin_key_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    other = GIVEN + "-other"

    assert await first_key(config_of(tmp_path, BATCHWRIGHT_ADMIN_KEY=GIVEN)) is None
    assert await is_known(config_of(tmp_path), GIVEN)
    assert not (tmp_path / "batchwright-data" / "admin.key").exists()

    await first_key(config_of(tmp_path, BATCHWRIGHT_ADMIN_KEY=other))

    assert await is_known(config_of(tmp_path), other)
    assert not await is_known(config_of(tmp_path), GIVEN)


async def test_a_given_admin_key_that_is_taken_away_opens_nothing(tmp_path: Path) -> None:
    await first_key(config_of(tmp_path, BATCHWRIGHT_ADMIN_KEY=GIVEN))

    made = await first_key(config_of(tmp_path))

    assert made is not None
    assert not await is_known(config_of(tmp_path), GIVEN)


async def test_a_rehearsal_answers_every_name_and_calls_nobody(tmp_path: Path) -> None:
    async with open_node(config_of(tmp_path), rehearse=True) as node:
        route = node.engine.router.find("gpt-5-mini")
        assert route.provider.name == "sandbox"
        assert node.engine.router.find("builtin/echo").provider.name == "builtin"


async def test_limits_of_a_provider_reach_its_lane(tmp_path: Path) -> None:
    text = """
    [providers.local]
    base_url = "http://127.0.0.1:1/v1"
    models = ["m"]
    max_concurrency = 3
    requests_per_minute = 60
    tokens_per_minute = 1000
    """
    async with open_node(config_of(tmp_path, text)) as node:
        limits = node.engine.router.find("m").lane.limits

    assert limits.max_concurrency == 3
    declared = limits.declared
    assert (declared.requests_per_minute, declared.tokens_per_minute) == (60, 1000)


async def test_routes_of_a_model_are_taken_in_their_order(tmp_path: Path) -> None:
    text = """
    [providers.a]
    base_url = "http://127.0.0.1:1/v1"
    models = ["m"]
    [providers.b]
    base_url = "http://127.0.0.1:1/v1"
    models = ["m2"]
    [models.m]
    routes = ["b/m2", "a/m"]
    """
    async with open_node(config_of(tmp_path, text)) as node:
        route = node.engine.router.find("m")
        assert (route.provider.name, route.model) == ("b", "m2")


@pytest.mark.parametrize(
    ("text", "environment", "hint"),
    [
        ("", {}, "Set OPENAI_API_KEY (OpenAI)"),
        ("[providers.vllm]\nmodels = ['x']", {}, "Add [providers.openai] to the configuration"),
        ("", {"OPENAI_API_KEY": "k"}, "or add it to [providers.openai] models"),
    ],
)
async def test_an_unknown_model_is_told_with_what_would_bring_it(
    tmp_path: Path, text: str, environment: dict[str, str], hint: str
) -> None:
    async with open_node(config_of(tmp_path, text, **environment)) as node:
        assert hint in (node.engine.router.explain("gpt-5-mini") or "")
