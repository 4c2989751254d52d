from __future__ import annotations

import asyncio

import pytest

from batchwright.blobs.memory import MemoryBlobs
from batchwright.domain.errors import Damaged
from batchwright.domain.segment import SegmentKeys
from batchwright.engine.journal import NO_SUMS, Journal
from batchwright.engine.recovery import BLOCK_RECORDS
from batchwright.engine.results import ResultIndex, Settled, Stretch
from batchwright.engine.tally import Tally
from batchwright.local.merge import failed_lines, pulled, windows
from batchwright.store.base import Segment

LINES = 12


async def segment_of(
    blobs: MemoryBlobs, batch_id: str, results: dict[int, tuple[bytes, bool]]
) -> Segment:
    """A closed segment with these results, written in the order given."""
    journal = Journal(
        batch_id=batch_id,
        epoch=1,
        blobs=blobs,
        tally=Tally(),
        now=lambda: 0.0,
        on_durable=lambda tokens: None,
        on_failed=lambda tokens: None,
    )
    keys = journal.keys
    await blobs.create((keys.output, keys.error, keys.account))
    for line, (text, is_output) in results.items():
        if is_output:
            journal.add_output(text + b"\n", (line, 0, 200, 0, 1), NO_SUMS)
        else:
            journal.add_error(text + b"\n", (line, 0, 400, 0, 1))
    return await journal.close()


async def no_pause() -> None:
    return None


async def results_of(index: ResultIndex, blobs: MemoryBlobs) -> list[Settled]:
    """Every result, in the order in which they come."""
    stretches = [each for window in [w async for w in windows(index, blobs)] for each in window]
    found = [list(stretch.each()) for stretch in stretches]
    assert [len(results) for results in found] == [stretch.lines for stretch in stretches]
    return [each for results in found for each in results]


async def test_results_come_in_the_order_of_their_lines_and_a_retry_replaces_a_failure() -> None:
    blobs = MemoryBlobs(pause=no_pause)
    first = await segment_of(
        blobs, "batch_a", {7: (b"seven", True), 2: (b"no", False), 5: (b"", True), 1: (b"1", False)}
    )
    retry = await segment_of(blobs, "batch_b", {2: (b"two", True), 1: (b"no again", False)})

    index = await ResultIndex.build([first, retry], blobs, LINES)
    found = await results_of(index, blobs)

    assert found == [
        Settled(1, b"no again", True),
        Settled(2, b"two", False),
        Settled(5, b"", False),
        Settled(7, b"seven", False),
    ]


async def test_far_apart_and_large_results_are_read_window_by_window() -> None:
    blobs = MemoryBlobs(pause=no_pause)
    large = b"x" * 3_000_000
    lines = {number: (b"%d" % number + large, True) for number in range(LINES, 0, -1)}
    segment = await segment_of(blobs, "batch_a", lines)

    index = await ResultIndex.build([segment], blobs, LINES)
    sizes = []
    numbers = []
    async for window in windows(index, blobs):
        sizes.append(sum(len(each.text) for each in window))
        numbers += [result.number for each in window for result in each.each()]

    assert numbers == list(range(1, LINES + 1))
    assert max(sizes) < 12_000_000


async def test_answers_and_failures_of_many_segments_lie_beside_one_another() -> None:
    blobs = MemoryBlobs(pause=no_pause)
    kinds = {line: (b"%d" % line, line % 3 != 0) for line in range(1, LINES + 1)}
    parts = [
        await segment_of(blobs, f"batch_{name}", {line: kinds[line] for line in lines})
        for name, lines in (("a", (4, 3, 2)), ("b", (9,)), ("c", ()), ("d", (1, 5, 12, 6, 7)))
    ]

    index = await ResultIndex.build(parts, blobs, LINES)
    found = await results_of(index, blobs)

    wanted = (1, 2, 3, 4, 5, 6, 7, 9, 12)
    assert found == [Settled(line, kinds[line][0], not kinds[line][1]) for line in wanted]


@pytest.mark.parametrize("few_records", [0, BLOCK_RECORDS], ids=["by block", "one by one"])
async def test_an_order_that_has_nothing_to_do_with_that_of_the_lines_costs_only_time(
    few_records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResultIndex, "_KEPT_BLOCKS", 1)
    monkeypatch.setattr("batchwright.engine.results._FEW_RECORDS", few_records)
    blobs = MemoryBlobs(pause=no_pause)
    lines = 2 * BLOCK_RECORDS
    shuffled = [7919 * number % lines + 1 for number in range(lines)]
    results = {line: (b"%d" % line, line % 5 != 0) for line in shuffled}
    first = await segment_of(blobs, "batch_a", results)
    retry = await segment_of(blobs, "batch_b", {5: (b"again", False), 10: (b"ten", True)})

    index = await ResultIndex.build([first, retry], blobs, lines)
    found = await results_of(index, blobs)
    failed = await failed_lines(index)

    wanted = results | {5: (b"again", False), 10: (b"ten", True)}
    assert found == [
        Settled(line, text, not is_output) for line, (text, is_output) in sorted(wanted.items())
    ]
    assert [line for line in range(lines + 1) if failed[line]] == [5, *range(15, lines + 1, 5)]


async def test_neighbours_in_the_input_that_lie_one_behind_the_other_come_in_one_piece() -> None:
    blobs = MemoryBlobs(pause=no_pause)
    order = [3, 4, 5, 1, 2, 7, 8, 10]
    results = {line: (b"%d" % line, line not in (8, 10)) for line in order}
    segment = await segment_of(blobs, "batch_a", results)
    index = await ResultIndex.build([segment], blobs, LINES)

    (window,) = [w async for w in windows(index, blobs)]

    assert window == [
        Stretch(1, 2, b"1\n2\n", False),
        Stretch(3, 3, b"3\n4\n5\n", False),
        Stretch(7, 1, b"7\n", False),
        Stretch(8, 1, b"8\n", True),
        Stretch(10, 1, b"10\n", True),
    ]


async def test_a_thread_pulls_what_the_loop_reads() -> None:
    blobs = MemoryBlobs(pause=no_pause)
    segment = await segment_of(blobs, "batch_a", {1: (b"one", True), 3: (b"three", True)})
    index = await ResultIndex.build([segment], blobs, LINES)
    loop = asyncio.get_running_loop()

    found = await asyncio.to_thread(lambda: list(pulled(windows(index, blobs), loop)))

    assert found == [Stretch(1, 1, b"one\n", False), Stretch(3, 1, b"three\n", False)]


@pytest.mark.parametrize("few_records", [0, BLOCK_RECORDS], ids=["by block", "one by one"])
async def test_a_record_that_is_damaged_since_gives_no_result(
    few_records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchwright.engine.results._FEW_RECORDS", few_records)
    blobs = MemoryBlobs(pause=no_pause)
    segment = await segment_of(blobs, "batch_a", {1: (b"one", True), 2: (b"two", True)})
    index = await ResultIndex.build([segment], blobs, 2)
    stored = blobs._files[SegmentKeys.of(segment.batch_id, segment.epoch).account].data
    stored[-10] ^= 1

    with pytest.raises(Damaged, match="an account record before byte"):
        await index.places(1, 2)
