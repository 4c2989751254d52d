"""The requests of a batch that are not run: cancelled, or past the window.

The input is streamed once, in slices and off the event loop; each request without a result gets
its line in the error file. A crash in between resumes where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from batchwright.blobs.base import Blobs, read_extents
from batchwright.domain.file import Extent
from batchwright.domain.lines import Line, LineSplitter
from batchwright.domain.request import parse_request
from batchwright.domain.result import Code
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
    line_bytes_max: int,
    is_stopping: Callable[[], bool],
) -> None:
    """Give each line without a result one with `code`. Leaves early, resumable, on a stop."""
    splitter = LineSplitter(line_bytes_max=line_bytes_max)
    undone: list[Line] = []
    async for chunk in read_extents(blobs, extents):
        undone += await blobs.offload(partial(_undone, splitter, chunk, journal))
        if len(undone) >= SLICE_LINES:
            await _write_slice(undone, code, blobs, journal, recorder)
            undone = []
        if is_stopping():
            return
    undone += [line for line in splitter.finish() if not journal.tally.is_done(line.number)]
    await _write_slice(undone, code, blobs, journal, recorder)


def _undone(splitter: LineSplitter, chunk: bytes, journal: Journal) -> list[Line]:
    is_done = journal.tally.is_done
    return [line for line in splitter.feed(chunk) if not is_done(line.number)]


async def _write_slice(
    undone: list[Line], code: Code, blobs: Blobs, journal: Journal, recorder: Recorder
) -> None:
    for number, text in await blobs.offload(partial(_render, undone, code, recorder)):
        recorder.rendered(number, text, code)
    await journal.flush()


def _render(undone: list[Line], code: Code, recorder: Recorder) -> list[tuple[int, bytes]]:
    rendered = []
    for line in undone:
        custom_id = parse_request(line.number, line.content or b"").custom_id
        text = recorder.render_not_sent(line.number, custom_id, code, MESSAGES[code])
        rendered.append((line.number, text))
    return rendered
