"""The requests of a batch that are not run: cancelled, or past the window.

The input is streamed once, in slices and off the event loop; each request without a result gets
its line in the error file. A crash in between resumes where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from batchwright.blobs.base import Blobs
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line
from batchwright.domain.result import Code
from batchwright.engine.input import input_lines, read_request
from batchwright.engine.journal import Journal
from batchwright.engine.recorder import Recorder

SLICE_LINES = 2_000

MESSAGES = {
    Code.BATCH_EXPIRED: "This request could not be executed before the completion window expired.",
    Code.BATCH_CANCELLED: "This request was not executed because the batch was cancelled.",
}


async def write_not_run(
    code: Code,
    *,
    extents: Sequence[Extent],
    blobs: Blobs,
    journal: Journal,
    recorder: Recorder,
    endpoint: str,
    is_stopping: Callable[[], bool],
) -> None:
    """Give each line without a result one with `code`. Leaves early, resumable, on a stop."""

    async def write_slice(undone: list[Line]) -> None:
        rendered = await blobs.offload(partial(_render, undone, endpoint, code, recorder))
        for number, text in rendered:
            recorder.rendered(number, text, code)
        await journal.flush()

    undone: list[Line] = []
    async for lines in input_lines(blobs, extents):
        undone += await blobs.offload(partial(_undone, lines, journal))
        if len(undone) >= SLICE_LINES:
            await write_slice(undone)
            undone = []
        if is_stopping():
            return
    await write_slice(undone)


def _undone(lines: Iterator[Line], journal: Journal) -> list[Line]:
    is_done = journal.tally.is_done
    return [line for line in lines if not is_done(line.number)]


def _render(
    undone: list[Line], endpoint: str, code: Code, recorder: Recorder
) -> list[tuple[int, bytes]]:
    rendered = []
    for line in undone:
        custom_id = read_request(line, endpoint).custom_id
        text = recorder.render_not_sent(line.number, custom_id, code, MESSAGES[code])
        rendered.append((line.number, text))
    return rendered
