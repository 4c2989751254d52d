"""What only real files can show: rights, syncs, faults of the system, threads."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from batchwright.blobs import local
from batchwright.blobs.base import CHUNK_BYTES
from batchwright.blobs.local import LocalBlobs
from batchwright.domain.errors import Damaged, NoSpace, StorageError


@pytest.fixture
async def blobs(tmp_path: Path) -> AsyncIterator[LocalBlobs]:
    made = LocalBlobs(tmp_path / "blobs")
    yield made
    await made.close()


async def put(blobs: LocalBlobs, key: str, data: bytes) -> None:
    writer = await blobs.open_writer(key)
    await writer.write(data)
    await writer.finish()


async def content(blobs: LocalBlobs, key: str) -> bytes:
    return b"".join([piece async for piece in blobs.read(key)])


async def test_files_and_folders_are_for_the_owner_alone(blobs: LocalBlobs, tmp_path: Path) -> None:
    await put(blobs, "files/file-1", b"x")
    await blobs.create(["batches/batch_1/1/output"])
    blobs.map("batches/batch_1/1/slots", 16)

    for path in (tmp_path / "blobs").rglob("*"):
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


async def test_a_symbolic_link_is_neither_read_nor_appended_to(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "blobs" / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(StorageError):
        await content(blobs, "link")
    with pytest.raises(StorageError):
        await blobs.append([("link", [b"x"])])
    assert (tmp_path / "secret").read_bytes() == b"secret"


async def test_a_dead_process_unfinished_blobs_are_removed_and_a_living_one_s_are_kept(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    incoming = tmp_path / "blobs" / ".incoming"
    (incoming / "left").write_bytes(b"half")
    writer = await blobs.open_writer("files/file-1")
    await writer.write(b"x")

    await LocalBlobs(tmp_path / "blobs").close()

    assert not (incoming / "left").exists()
    assert await writer.finish()
    assert await content(blobs, "files/file-1") == b"x"


async def test_a_blob_is_synced_before_it_is_named_and_every_folder_after(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename, sync = os.fsync, Path.rename, local._sync
    root = tmp_path / "blobs"

    def seen_fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        steps.append(f"folder {path.relative_to(root)}")
        fsync(descriptor)

    def seen_sync(descriptor: int) -> None:
        steps.append("file")
        sync(descriptor)

    def seen_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(local, "_sync", seen_sync)
    monkeypatch.setattr(Path, "rename", seen_rename)

    await put(blobs, "files/2026/file-1", b"x")
    assert steps == ["file", "rename", "folder files/2026", "folder files", "folder ."]

    steps.clear()
    await blobs.create(["batches/b/1/output", "batches/b/1/error"])
    assert steps == ["folder batches/b/1", "folder batches/b", "folder batches", "folder ."]

    steps.clear()
    await blobs.append([("batches/b/1/output", [b"x"]), ("batches/b/1/error", [b"y"])])
    assert steps == ["file", "file"]


async def test_short_writes_are_gone_on_with(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    monkeypatch.setattr(
        os, "writev", lambda descriptor, pieces: write(descriptor, b"".join(pieces)[:7])
    )
    await blobs.create(["segment"])

    await blobs.append([("segment", [bytes(range(100)), b"and", b" more"])])

    assert await content(blobs, "segment") == bytes(range(100)) + b"and more"


async def test_many_pieces_are_written_in_their_order(blobs: LocalBlobs) -> None:
    pieces = [b"%d," % number for number in range(5_000)]
    await blobs.create(["segment"])

    await blobs.append([("segment", pieces), ("segment", [b"end"])])

    assert await content(blobs, "segment") == b"".join(pieces) + b"end"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_a_full_disk_is_no_space_and_is_not_tried_again(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(descriptor: int, pieces: Sequence[bytes]) -> int:
        raise OSError(number, os.strerror(number))

    await blobs.create(["segment"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(NoSpace, match="segment"):
            await blobs.append([("segment", [b"x"])])

    with pytest.raises(StorageError, match="failed before"):
        await blobs.append([("segment", [b"x"])])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
async def test_room_is_found_out_by_writing_and_leaves_nothing(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(NoSpace, match="room"):
            await blobs.require_room(3 << 20)
    await blobs.require_room(3 << 20)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("opened", [1, 2])
async def test_files_that_cannot_all_be_made_are_neither_open_nor_there(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: int
) -> None:
    real, files, before = os.open, 0, len(os.listdir("/dev/fd"))

    def full(path: Path, flags: int, *mode: int) -> int:
        nonlocal files
        files += 1
        if files > opened:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        with pytest.raises(NoSpace):
            await blobs.create(["batches/b/1/output", "batches/b/1/error", "batches/b/1/account"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert len(os.listdir("/dev/fd")) == before
    await blobs.create(["batches/b/1/output", "batches/b/1/error", "batches/b/1/account"])


async def test_a_mapped_file_without_room_is_not_there(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, size_bytes: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(local, "_reserve", full)
        with pytest.raises(NoSpace):
            blobs.map("slots", 4_096)
    assert len(blobs.map("slots", 4_096)) == 4_096


async def test_a_mapped_file_whose_views_are_released_holds_nothing_open(
    blobs: LocalBlobs,
) -> None:
    before = len(os.listdir("/dev/fd"))
    for number in range(5):
        words = blobs.map(f"slots-{number}", 4_096).cast("Q")
        words[0] = 1
        words.release()
        blobs.unmap(f"slots-{number}")
    assert len(os.listdir("/dev/fd")) == before


async def test_a_failed_sync_is_never_repeated_on_the_same_files(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    await blobs.create(["one", "two"])
    with monkeypatch.context() as patch:
        patch.setattr(local, "_sync", broken)
        with pytest.raises(StorageError, match="Input/output error"):
            await blobs.append([("one", [b"x"]), ("two", [b"y"])])

    for key in ("one", "two"):
        with pytest.raises(StorageError, match="failed before"):
            await blobs.append([(key, [b"z"])])


async def test_a_blob_whose_sync_fails_never_becomes_visible(
    blobs: LocalBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local, "_sync", full)
    with pytest.raises(NoSpace):
        await put(blobs, "files/file-1", b"x")

    assert await blobs.keys("") == []
    assert list((tmp_path / "blobs" / ".incoming").iterdir()) == []


async def test_a_file_cut_short_while_it_is_read_is_damage(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    await put(blobs, "files/file-1", b"x" * (2 * CHUNK_BYTES))
    pieces = blobs.read("files/file-1")
    await anext(pieces)

    os.truncate(tmp_path / "blobs" / "files" / "file-1", CHUNK_BYTES)

    with pytest.raises(Damaged, match="ends at byte"):
        await anext(pieces)


async def test_an_open_download_outlives_the_deletion(blobs: LocalBlobs) -> None:
    await put(blobs, "files/file-1", b"x" * (CHUNK_BYTES + 1))
    pieces = blobs.read("files/file-1")
    first = await anext(pieces)

    await blobs.delete("files/file-1")

    assert len(first + b"".join([piece async for piece in pieces])) == CHUNK_BYTES + 1


async def test_deleting_a_segment_leaves_no_empty_folders_of_its_batch(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    await blobs.create(["batches/batch_1/1/output", "batches/batch_1/1/error"])
    await blobs.release(["batches/batch_1/1/output", "batches/batch_1/1/error"])

    await blobs.delete("batches/batch_1/1/output")
    await blobs.delete("batches/batch_1/1/error")

    assert [path.name for path in (tmp_path / "blobs" / "batches").iterdir()] == []


async def test_a_cancelled_append_ends_whole_before_its_caller_leaves(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go = asyncio.Event(), threading.Event()
    loop, sync = asyncio.get_running_loop(), local._sync

    def slow(descriptor: int) -> None:
        loop.call_soon_threadsafe(started.set)
        go.wait()
        sync(descriptor)

    await blobs.create(["segment"])
    monkeypatch.setattr(local, "_sync", slow)
    appending = asyncio.create_task(blobs.append([("segment", [b"whole"])]))
    await started.wait()
    appending.cancel()
    go.set()

    with pytest.raises(asyncio.CancelledError):
        await appending
    monkeypatch.setattr(local, "_sync", sync)
    await blobs.append([("segment", [b" and more"])])
    assert await content(blobs, "segment") == b"whole and more"


async def test_validation_in_every_offload_thread_does_not_hold_up_an_append(
    blobs: LocalBlobs,
) -> None:
    go = threading.Event()
    busy = [asyncio.create_task(blobs.offload(go.wait)) for _ in range(8)]
    await blobs.create(["segment"])

    await blobs.append([("segment", [b"x"])])

    assert not any(task.done() for task in busy)
    go.set()
    await asyncio.gather(*busy)


async def test_what_another_process_wrote_can_be_synced_by_an_empty_append(
    blobs: LocalBlobs, tmp_path: Path
) -> None:
    (tmp_path / "blobs" / "segment").write_bytes(b"left")

    await blobs.append([("segment", ())])

    assert await content(blobs, "segment") == b"left"


async def test_a_second_set_of_blobs_sees_the_same_files(blobs: LocalBlobs, tmp_path: Path) -> None:
    await put(blobs, "files/file-1", b"x")
    await blobs.create(["segment"])
    await blobs.append([("segment", [b"line\n"])])
    blobs.map("slots", 4)[:] = b"slot"
    await blobs.close()

    again = LocalBlobs(tmp_path / "blobs")

    assert await again.keys("") == ["files/file-1", "segment", "slots"]
    assert [await content(again, key) for key in await again.keys("")] == [b"x", b"line\n", b"slot"]
    await again.close()


async def test_close_is_safe_twice(blobs: LocalBlobs) -> None:
    await blobs.close()
    await blobs.close()


async def test_a_slice_of_a_mapped_file_may_outlive_its_unmapping(blobs: LocalBlobs) -> None:
    part = blobs.map("slots", 64)[8:16]

    blobs.unmap("slots")

    part[:] = b"12345678"
    assert (await content(blobs, "slots"))[8:16] == b"12345678"
