from __future__ import annotations

from pathlib import Path

import pytest

from batchwright.domain.errors import StorageError
from batchwright.replacing import replacing, replacing_async


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.write_text((tmp_path / "none").read_text())

    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "far" / "real")

    with replacing(link) as temporary:
        temporary.write_text("new")

    assert link.is_symlink()
    assert (tmp_path / "far" / "real").read_text() == "new"


def test_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.touch()
    path.chmod(0o640)

    with replacing(path) as temporary:
        temporary.write_text("new")

    assert path.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"), replacing(tmp_path / "a" / "b"):
        pass


async def test_a_coroutine_does_the_same(tmp_path: Path) -> None:
    path = tmp_path / "out"
    async with replacing_async(path) as temporary:
        temporary.write_text("new")

    with pytest.raises(FileNotFoundError):
        await fail_half_way(path)

    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])


async def fail_half_way(path: Path) -> None:
    async with replacing_async(path) as temporary:
        temporary.write_text("half")
        raise FileNotFoundError
