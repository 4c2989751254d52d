from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchwright.client.settings import DEFAULT_BASE_URL, Endpoint, resolve_endpoint
from batchwright.data_directory import LOCK_NAME, locked, rehearsal_of
from batchwright.domain.errors import ConfigError

ENVIRON = {"BATCHWRIGHT_BASE_URL": "http://env.example/v1", "BATCHWRIGHT_API_KEY": "env-key"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """That of a server that runs."""
    with locked(tmp_path):
        (tmp_path / "admin.key").write_text("file-key\n")
        yield tmp_path


def test_arguments_win_over_the_environment(data_dir: Path) -> None:
    endpoint = resolve_endpoint("k", "https://a.example/v1/", data_dir=data_dir, environ=ENVIRON)

    assert (endpoint.base_url, endpoint.api_key) == ("https://a.example/v1", "k")


def test_the_environment_wins_over_the_data_directory(data_dir: Path) -> None:
    endpoint = resolve_endpoint(data_dir=data_dir, environ=ENVIRON)

    assert (endpoint.base_url, endpoint.api_key) == ("http://env.example/v1", "env-key")


def test_the_data_directory_has_the_key_of_this_machine(data_dir: Path) -> None:
    endpoint = resolve_endpoint(base_url=DEFAULT_BASE_URL, data_dir=data_dir, environ={})

    assert endpoint.api_key == "file-key"


def test_an_address_that_is_only_a_default_gets_no_key(data_dir: Path) -> None:
    endpoint = resolve_endpoint(data_dir=data_dir, environ={})

    assert (endpoint.base_url, endpoint.api_key) == (DEFAULT_BASE_URL, None)


def test_what_a_killed_server_left_is_neither_asked_nor_told_the_key(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / "admin.key").write_text("file-key\n")
        (tmp_path / "base_url").write_text("http://127.0.0.1:4711/v1\n")

    assert resolve_endpoint(data_dir=tmp_path, environ={}) == Endpoint(DEFAULT_BASE_URL, None)
    named = resolve_endpoint(base_url=DEFAULT_BASE_URL, data_dir=tmp_path, environ={})
    assert named.api_key is None


def test_a_server_that_only_starts_is_not_taken_for_the_one_before_it(data_dir: Path) -> None:
    (data_dir / "base_url").write_text("http://127.0.0.1:4711/v1\n")
    started_s = (data_dir / LOCK_NAME).stat().st_mtime
    os.utime(data_dir / "base_url", (started_s - 60, started_s - 60))

    assert resolve_endpoint(data_dir=data_dir, environ={}) == Endpoint(DEFAULT_BASE_URL, None)


def test_the_data_directory_has_the_address_of_the_server_that_runs_over_it(
    data_dir: Path,
) -> None:
    (data_dir / "base_url").write_text("http://127.0.0.1:4711/v1\n")
    usual = {"default_url": "http://127.0.0.1:1/v1", "environ": {}}

    assert resolve_endpoint(data_dir=data_dir, **usual).base_url == "http://127.0.0.1:4711/v1"
    assert resolve_endpoint(base_url="http://b/v1", data_dir=data_dir).base_url == "http://b/v1"
    (data_dir / "base_url").unlink()
    assert resolve_endpoint(data_dir=data_dir, **usual).base_url == "http://127.0.0.1:1/v1"


def test_a_server_that_rehearses_is_found_where_no_other_runs(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    rehearsing = rehearsal_of(folder)
    rehearsing.mkdir()
    with locked(rehearsing):
        (rehearsing / "admin.key").write_text("rehearsal-key\n")
        (rehearsing / "base_url").write_text("http://127.0.0.1:4711/v1\n")

        found = resolve_endpoint(data_dir=folder, environ={})

        assert found == Endpoint("http://127.0.0.1:4711/v1", "rehearsal-key")
        folder.mkdir()
        with locked(folder):
            assert resolve_endpoint(data_dir=folder, environ={}) == Endpoint(DEFAULT_BASE_URL, None)


def test_the_environment_names_the_data_directory(data_dir: Path) -> None:
    (data_dir / "base_url").write_text("http://127.0.0.1:4711/v1\n")

    endpoint = resolve_endpoint(environ={"BATCHWRIGHT_DATA_DIR": str(data_dir)})

    assert (endpoint.base_url, endpoint.api_key) == ("http://127.0.0.1:4711/v1", "file-key")


def test_the_key_of_the_data_directory_goes_to_no_other_machine(data_dir: Path) -> None:
    endpoint = resolve_endpoint(base_url="https://a.example/v1", data_dir=data_dir, environ={})

    assert endpoint.api_key is None


def test_without_any_key_none_is_sent(tmp_path: Path) -> None:
    assert resolve_endpoint(data_dir=tmp_path, environ={}).api_key is None


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(resolve_endpoint("secret", environ={}))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/v1", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        resolve_endpoint(base_url=url, environ={})
