from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from batchwright.domain.errors import Damaged, StorageError, UsageError
from batchwright.local.state import Manifest, mark_of, open_state, state_folder_of
from batchwright.tables import RunIdentity

MANIFEST = Manifest(
    RunIdentity(10, "ab" * 32, prompt="{x}", params={"seed": 7}), is_sent=True, lines=3
)


def test_a_manifest_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    with open_state(tmp_path / "out.csv.batchwright") as state:
        before = state.load()
        state.save(MANIFEST)
        state.save(replace(MANIFEST, is_finished=True, summary={"failed": 2}))
        after = state.load()

    assert before is None
    assert after == replace(MANIFEST, is_finished=True, summary={"failed": 2})


def test_the_folder_is_the_owners_alone_and_stands_beside_the_output(tmp_path: Path) -> None:
    folder = state_folder_of(tmp_path / "out.csv")

    with open_state(folder):
        mode = stat.S_IMODE(folder.stat().st_mode)

    assert (folder.name, mode) == ("out.csv.batchwright", 0o700)


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        open_state(tmp_path / "s"),
        pytest.raises(UsageError, match="in use by process"),
        open_state(tmp_path / "s"),
    ):
        pass
    with open_state(tmp_path / "s") as state:
        assert not state.is_begun


@pytest.mark.parametrize("content", [b"", b"{", b'{"identity": 1}', b"\xff"])
def test_a_damaged_manifest_is_told_and_never_taken_for_a_new_run(
    content: bytes, tmp_path: Path
) -> None:
    with open_state(tmp_path / "s") as state:
        state.save(MANIFEST)
        (tmp_path / "s" / "run.json").write_bytes(content)

        with pytest.raises(Damaged, match="--restart"):
            state.load()


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    with open_state(tmp_path / "s") as state:
        state.save(replace(MANIFEST, version=99))

        with pytest.raises(StorageError, match="another version"):
            state.load()


def test_removing_leaves_a_file_of_somebody_else(tmp_path: Path) -> None:
    with open_state(tmp_path / "s") as state:
        state.save(MANIFEST)
        state.data_dir(MANIFEST).mkdir()
        (tmp_path / "s" / "notes.txt").write_text("mine")
        state.remove()

    assert [path.name for path in (tmp_path / "s").iterdir()] == ["notes.txt"]


def test_a_folder_in_which_nothing_began_goes_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), open_state(tmp_path / "s"):
        raise RuntimeError

    assert list(tmp_path.iterdir()) == []


def test_another_engine_stands_beside_the_first_until_that_is_dropped(tmp_path: Path) -> None:
    with open_state(tmp_path / "s") as state:
        state.save(MANIFEST)
        state.data_dir(MANIFEST).mkdir()
        other = replace(MANIFEST, engine=state.new_engine())
        state.data_dir(other).mkdir()
        before = (state.is_saved(MANIFEST), state.is_saved(other))

        state.save(other)
        state.clear_other_engines(other)

        assert before == (True, False)
        assert state.is_saved(other)
        assert [path for path in state.folder.iterdir() if path.is_dir()] == [state.data_dir(other)]


def test_the_mark_of_a_file_tells_it_from_any_other_and_not_from_a_copy(tmp_path: Path) -> None:
    contents = [b"", b"a", b"b", b"a" * 2**19, b"a" * (2**19 - 1) + b"b", b"a" * (2**19 + 1)]
    marks = []
    for number, content in enumerate(contents):
        path, copy = tmp_path / f"{number}", tmp_path / f"{number}.copy"
        path.write_bytes(content)
        copy.write_bytes(content)
        assert mark_of(path) == mark_of(copy)
        marks.append(mark_of(path))

    assert len(set(marks)) == len(contents)


def test_a_file_that_cannot_be_read_has_no_mark(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        mark_of(tmp_path)
