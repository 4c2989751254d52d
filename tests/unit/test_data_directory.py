from __future__ import annotations

from pathlib import Path

import pytest

from batchwright import data_directory
from batchwright.domain.errors import ConfigError


def test_a_folder_with_other_content_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(ConfigError, match="holds other things"):
        data_directory.prepare(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_and_one_of_ours_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir(mode=0o700)

    assert data_directory.prepare(folder) == folder
    with data_directory.locked(folder):
        pass
    (folder / "blobs").mkdir()

    assert data_directory.prepare(folder / ".." / "empty") == folder


def test_a_folder_is_owned_while_its_process_lives(tmp_path: Path) -> None:
    before = data_directory.owned_since_ns(tmp_path)
    with data_directory.locked(tmp_path):
        during = data_directory.owned_since_ns(tmp_path)
    after = data_directory.owned_since_ns(tmp_path)

    assert (before, after) == (None, None)
    assert during == (tmp_path / data_directory.LOCK_NAME).stat().st_mtime_ns
