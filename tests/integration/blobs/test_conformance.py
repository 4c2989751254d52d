"""What every implementation of `Blobs` does."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchwright.blobs.base import CHUNK_BYTES, Blobs, read_extent_ranges, read_extents
from batchwright.blobs.local import LocalBlobs
from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import Damaged, StorageError
from batchwright.domain.file import Extent


@pytest.fixture(params=["local", "memory"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    made = LocalBlobs(tmp_path / "blobs") if request.param == "local" else MemoryBlobs()
    yield made
    await made.close()


async def put(blobs: Blobs, key: str, data: bytes) -> tuple[int, str]:
    writer = await blobs.open_writer(key)
    await writer.write(data)
    return await writer.finish()


async def content(blobs: Blobs, key: str, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join([piece async for piece in blobs.read(key, offset, length)])


async def test_a_finished_blob_is_read_back_and_its_size_and_hash_are_told(blobs: Blobs) -> None:
    data = bytes(range(256)) * 12_345
    writer = await blobs.open_writer("files/file-1")
    for start in range(0, len(data), 100_000):
        await writer.write(data[start : start + 100_000])

    told = await writer.finish()

    assert told == (len(data), hashlib.sha256(data).hexdigest())
    assert await content(blobs, "files/file-1") == data
    assert await blobs.size("files/file-1") == len(data)


async def test_a_blob_is_invisible_until_it_is_finished(blobs: Blobs) -> None:
    writer = await blobs.open_writer("files/file-1")
    await writer.write(b"x" * (CHUNK_BYTES + 1))

    assert await blobs.size("files/file-1") is None
    assert await blobs.keys("") == []

    await writer.finish()
    assert await blobs.keys("") == ["files/file-1"]


async def test_an_aborted_blob_leaves_nothing_and_abort_is_safe_twice(blobs: Blobs) -> None:
    writer = await blobs.open_writer("files/file-1")
    await writer.write(b"x")

    await writer.abort()
    await writer.abort()

    assert await blobs.keys("") == []
    with pytest.raises(StorageError):
        await writer.write(b"y")


async def test_abort_after_finish_keeps_the_blob(blobs: Blobs) -> None:
    writer = await blobs.open_writer("files/file-1")
    await writer.write(b"x")
    await writer.finish()

    await writer.abort()

    assert await content(blobs, "files/file-1") == b"x"


async def test_a_finished_blob_is_never_overwritten(blobs: Blobs) -> None:
    await put(blobs, "files/file-1", b"first")

    with pytest.raises(StorageError, match="exists already"):
        await put(blobs, "files/file-1", b"second")

    assert await content(blobs, "files/file-1") == b"first"


async def test_an_empty_blob_is_a_blob(blobs: Blobs) -> None:
    assert await put(blobs, "files/file-1", b"") == (0, hashlib.sha256().hexdigest())
    assert await blobs.size("files/file-1") == 0
    assert await content(blobs, "files/file-1") == b""


async def test_a_large_blob_is_read_in_bounded_pieces(blobs: Blobs) -> None:
    await put(blobs, "files/file-1", b"x" * (2 * CHUNK_BYTES + 5))

    sizes = [len(piece) async for piece in blobs.read("files/file-1")]

    assert sizes == [CHUNK_BYTES, CHUNK_BYTES, 5]


async def test_a_range_is_read(blobs: Blobs) -> None:
    await put(blobs, "files/file-1", b"0123456789")

    assert await content(blobs, "files/file-1", 3, 4) == b"3456"
    assert await content(blobs, "files/file-1", 7) == b"789"
    assert await content(blobs, "files/file-1", 10) == b""
    assert await content(blobs, "files/file-1", 5, 0) == b""


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (8, 3), (11, None), (11, 0)])
async def test_a_range_beyond_the_end_is_damage(
    blobs: Blobs, offset: int, length: int | None
) -> None:
    await put(blobs, "files/file-1", b"0123456789")

    with pytest.raises(Damaged):
        await content(blobs, "files/file-1", offset, length)


async def test_many_ranges_are_read_at_once(blobs: Blobs) -> None:
    data = bytes(range(256)) * 1_000
    await put(blobs, "files/file-1", data)
    ranges = [(0, 3), (3, 0), (3, 5), (10, 1), (100_000, 7), (255_990, 10)]

    found = await blobs.read_ranges("files/file-1", ranges)

    assert found == [data[offset : offset + length] for offset, length in ranges]
    assert await blobs.read_ranges("files/file-1", []) == []


async def test_a_range_of_many_that_is_not_there_is_damage(blobs: Blobs) -> None:
    await put(blobs, "files/file-1", b"0123456789")

    with pytest.raises(Damaged):
        await blobs.read_ranges("files/file-1", [(0, 5), (8, 3)])
    with pytest.raises(Damaged):
        await blobs.read_ranges("files/none", [(0, 5)])


@pytest.mark.parametrize("cuts", [[], [7], [3, 3, 9], [8, 9]])
async def test_ranges_of_a_file_are_read_wherever_its_extents_lie(
    blobs: Blobs, cuts: list[int]
) -> None:
    text = b"0123456789abcdef"
    extents = []
    for place, (start, end) in enumerate(zip([0, *cuts], [*cuts, 16], strict=True)):
        await put(blobs, f"part{place}", b"before" + text[start:end])
        extents.append(Extent(f"part{place}", 6, end - start))
    ranges = [(0, 3), (2, 9), (7, 1), (8, 0), (11, 5)]

    found = await read_extent_ranges(blobs, extents, ranges)

    assert found == [text[offset : offset + length] for offset, length in ranges]


async def test_reading_what_is_missing_is_damage(blobs: Blobs) -> None:
    with pytest.raises(Damaged, match="files/file-1 is missing"):
        await content(blobs, "files/file-1")


async def test_extents_are_read_one_after_the_other(blobs: Blobs) -> None:
    await put(blobs, "a", b"0123456789")
    await put(blobs, "b", b"abcdef")
    extents = [Extent("b", 2, 3), Extent("a", 0, 2), Extent("b", 0, 1)]

    assert b"".join([piece async for piece in read_extents(blobs, extents)]) == b"cde01a"


async def test_appends_to_several_files_are_read_back_in_order(blobs: Blobs) -> None:
    output, error = "batches/batch_1/1/output", "batches/batch_1/1/error"
    await blobs.create([output, error])

    await blobs.append([(output, [b"one\n"]), (error, [b"bad\n"]), (output, [b"two\n"])])
    await blobs.append([(output, [b"three\n"])])
    await blobs.release([output, error])

    assert await content(blobs, output) == b"one\ntwo\nthree\n"
    assert await content(blobs, error) == b"bad\n"


async def test_what_is_appended_may_be_made_while_it_is_written(blobs: Blobs) -> None:
    await blobs.create(["output", "error"])
    made = (("output", [b"%d\n" % number]) for number in range(3))

    await blobs.append(made)

    assert await content(blobs, "output") == b"0\n1\n2\n"
    assert next(made, None) is None


async def test_an_append_after_release_goes_on_at_the_end(blobs: Blobs) -> None:
    await blobs.create(["segment"])
    await blobs.append([("segment", [b"one"])])
    await blobs.release(["segment"])

    await blobs.append([("segment", [b"two"])])

    assert await content(blobs, "segment") == b"onetwo"


async def test_create_refuses_a_file_that_exists(blobs: Blobs) -> None:
    await blobs.create(["batches/batch_1/1/output"])

    with pytest.raises(StorageError):
        await blobs.create(["batches/batch_1/1/output"])


async def test_append_refuses_a_file_that_was_not_created_and_every_append_to_it_after(
    blobs: Blobs,
) -> None:
    with pytest.raises(StorageError):
        await blobs.append([("nothing", [b"x"])])
    await blobs.create(["nothing"])

    with pytest.raises(StorageError, match="failed before"):
        await blobs.append([("nothing", [b"x"])])


async def test_a_failed_append_poisons_all_files_of_the_call(blobs: Blobs) -> None:
    await blobs.create(["sound", "other"])
    with pytest.raises(StorageError):
        await blobs.append([("sound", [b"x"]), ("missing", [b"y"])])

    with pytest.raises(StorageError, match="sound failed before"):
        await blobs.append([("sound", [b"x"])])
    await blobs.append([("other", [b"x"])])


async def test_delete_takes_one_blob_or_all_below_a_prefix(blobs: Blobs) -> None:
    for key in ["batches/b1/1/output", "batches/b1/2/output", "batches/b2/1/output", "batches/b10"]:
        await put(blobs, key, b"x")

    await blobs.delete("batches/b1/")
    await blobs.delete("batches/b10")

    assert await blobs.keys("") == ["batches/b2/1/output"]


async def test_deleting_what_is_not_there_is_no_error(blobs: Blobs) -> None:
    await blobs.delete("files/none")
    await blobs.delete("files/none/")


async def test_deleting_everything_is_refused(blobs: Blobs) -> None:
    await put(blobs, "files/file-1", b"x")

    with pytest.raises(StorageError):
        await blobs.delete("")

    assert await blobs.keys("") == ["files/file-1"]


async def test_keys_are_sorted_and_filtered_by_prefix(blobs: Blobs) -> None:
    for key in ["files/b", "files/a", "uploads/c", "files-x"]:
        await put(blobs, key, b"x")

    assert await blobs.keys("") == ["files-x", "files/a", "files/b", "uploads/c"]
    assert await blobs.keys("files/") == ["files/a", "files/b"]
    assert await blobs.keys("files") == ["files-x", "files/a", "files/b"]
    assert await blobs.keys("none/") == []


BAD_KEYS = ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".hidden", "a/.b", "a b", "ä"]
BAD_KEYS += ["a\\b", "a\nb", "a\n", "a\0b", "x" * 600]


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_a_key_that_is_no_plain_relative_path_is_refused(blobs: Blobs, key: str) -> None:
    with pytest.raises(StorageError):
        await blobs.open_writer(key)
    with pytest.raises(StorageError):
        await blobs.create([key])
    with pytest.raises(StorageError):
        await content(blobs, key)
    with pytest.raises(StorageError):
        await blobs.size(key)
    with pytest.raises(StorageError):
        blobs.map(key, 16)


async def test_what_is_stored_in_a_mapped_file_is_read_back(blobs: Blobs) -> None:
    view = blobs.map("batches/batch_1/1/slots", 4_096)
    assert bytes(view) == bytes(4_096)

    view[16:20] = b"line"

    assert (await content(blobs, "batches/batch_1/1/slots", 16, 4)) == b"line"
    blobs.unmap("batches/batch_1/1/slots")
    blobs.unmap("batches/batch_1/1/slots")
    assert (await content(blobs, "batches/batch_1/1/slots", 16, 4)) == b"line"


async def test_mapping_a_file_that_exists_is_refused(blobs: Blobs) -> None:
    blobs.map("slots", 16)

    with pytest.raises(StorageError):
        blobs.map("slots", 16)


async def test_offload_gives_what_the_function_gives(blobs: Blobs) -> None:
    assert await blobs.offload(lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        await blobs.offload(lambda: 1 // 0)


async def test_room_that_is_there_is_found(blobs: Blobs) -> None:
    await blobs.require_room(0)
    await blobs.require_room(1)
    await blobs.require_room((1 << 20) + 1)
    assert await blobs.keys("") == []


async def test_free_space_is_told(blobs: Blobs) -> None:
    assert blobs.free_bytes() > 0
