"""The journal: the truth about what is done, written by continuous group commit.

While one group is being written and synced off the event loop, the next gathers; there is no timer.
A group is what has gathered when the writer gets to it, and not when it is called: the longer it
waits for a processor, the larger the groups are and the fewer the syncs.

Only what is synced reaches the tally and `on_durable`. A failed write or sync stops the journal at
once and is never retried on the same files: what they then hold is for recovery to find out. The
tokens of what is not durable then, and will not be, go to `on_failed`, at once and as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from zlib import crc32

from batchwright.blobs.base import Blobs
from batchwright.domain.errors import Damaged, StorageError
from batchwright.domain.result import Code
from batchwright.domain.segment import Segment, SegmentKeys, SegmentLengths
from batchwright.engine.account import (
    ATTEMPTS_MAX,
    ERROR,
    IN_CRASH,
    MAYBE_PAID,
    OUTPUT,
    RECORD_BYTES,
    Fields,
    mark,
    pack,
)
from batchwright.engine.suspects import Suspicion
from batchwright.engine.tally import Tally

Attempt = tuple[int, int, int, int, int]
"""Line, lane, code, flags, attempts: the first fields of a `Record`."""
Sums = tuple[int, int, int, int, int, int]
"""Tokens in, cached, out and for reasoning; cost and charge."""
NO_SUMS: Sums = (0, 0, 0, 0, 0, 0)
_NO_TEXT = (0, 0, 0)  # offset, length and CRC-32 of a record without a result line


class Journal:
    """The open segment of one batch, and its only writer."""

    def __init__(
        self,
        *,
        batch_id: str,
        epoch: int,
        blobs: Blobs,
        tally: Tally,
        now: Callable[[], float],
        on_durable: Callable[[Sequence[Any]], None],
        on_failed: Callable[[Sequence[Any]], None],
    ) -> None:
        self.batch_id = batch_id
        self.epoch = epoch
        self.tally = tally
        self._epoch_tag = epoch & 0xFFFF
        self.keys = SegmentKeys.of(batch_id, epoch)
        self.failure: StorageError | None = None
        self._blobs = blobs
        self._now = now
        self._on_durable = on_durable
        self._on_failed = on_failed
        # With token and text. The loop appends, and removes what is durable from the front; the
        # thread of the writer only reads.
        self._gathered: list[tuple[Fields, Any, bytes]] = []
        self._lengths = [0, 0]  # gathered: output, error
        self._synced = SegmentLengths(0, 0, 0)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._commit_groups())

    @property
    def synced(self) -> SegmentLengths:
        """The lengths up to which the files are durable."""
        return self._synced

    def add_output(
        self,
        text: bytes,
        attempt: Attempt,
        sums: Sums,
        token: Any = None,
        *,
        at: float | None = None,
    ) -> None:
        """Gather the result line of an answered request.

        `token` is handed to `on_durable` once the line is durable. `at` is when it was answered;
        None: now.
        """
        offset, length = self._lengths[0], len(text)
        if at is None:
            at = self._now()
        head = self._head(attempt, OUTPUT)
        self._gather((*head, *sums, at, offset, length, crc32(text)), token, text)
        self._lengths[0] = offset + length

    def add_error(self, text: bytes, attempt: Attempt, token: Any = None) -> None:
        """Gather the result line of a request that ends without success."""
        offset, length = self._lengths[1], len(text)
        head = self._head(attempt, ERROR)
        self._gather((*head, *NO_SUMS, self._now(), offset, length, crc32(text)), token, text)
        self._lengths[1] = offset + length

    def add_attempt(self, attempt: Attempt, token: Any = None) -> None:
        """Gather an attempt that may have cost money and did not become the result."""
        self._gather((*self._head(attempt, 0), *NO_SUMS, self._now(), *_NO_TEXT), token)

    def add_crash(self, line: int, tries: int, suspicion: Suspicion) -> None:
        """Gather that a request was in flight when the process died, and what that tells."""
        head = self._head((line, 0, Code.LOST_IN_CRASH, MAYBE_PAID | IN_CRASH, tries), 0)
        self._gather((*head, *NO_SUMS, self._now(), *suspicion.packed()), None)

    def _head(self, attempt: Attempt, kind: int) -> tuple[int, int, int, int, int, int]:
        line, lane, code, flags, tries = attempt
        if tries > ATTEMPTS_MAX:
            tries = ATTEMPTS_MAX
        return line, lane, code, flags | kind, tries, self._epoch_tag

    def _gather(self, fields: Fields, token: Any, text: bytes = b"") -> None:
        if self.failure is not None:
            self._on_failed((token,))  # nothing that comes now will be written
            return
        gathered = self._gathered
        if not gathered:
            self._wake.set()
            self._idle.clear()
        gathered.append((fields, token, text))

    async def flush(self) -> None:
        """Wait until everything gathered so far is durable. Raises the failure if there is one."""
        await self._idle.wait()
        if self.failure is not None:
            raise self.failure

    async def close(self) -> Segment:
        """Flush, stop, and give the segment with its final lengths. Safe after a failure: then
        what is synced is what counts. Safe twice."""
        self._closing = True
        self._wake.set()
        await self._task
        keys = self.keys
        await self._blobs.release((keys.output, keys.error, keys.account))
        return Segment(self.batch_id, self.epoch, self._synced)

    async def _commit_groups(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._gathered:
                try:
                    await self._commit()
                except StorageError as error:
                    self._fail(error)
                    return
                except Exception as error:  # a bug stops its batch, and says so
                    self._fail(Damaged(f"{type(error).__name__}: {error}"))
                    return
            self._idle.set()
            if self._closing:
                return

    def _fail(self, error: StorageError) -> None:
        """Write nothing any more, and hand back what was held for what is lost."""
        self.failure = error
        self._idle.set()
        held, self._gathered = self._gathered, []
        self._on_failed([token for _, token, _ in held])

    async def _commit(self) -> None:
        group = _Group()
        await self._blobs.append(self._writes(group))
        self._synced = group.lengths
        self.tally.apply_all(group.fields)
        self._on_durable(group.tokens)
        del self._gathered[: len(group.tokens)]

    def _writes(self, group: _Group) -> Iterator[tuple[str, Sequence[bytes]]]:
        """What is to be written; notes in `group` what that is.

        It runs when the writer gets to it, on its thread: more may gather meanwhile, behind.
        """
        fields, tokens, texts = zip(*self._gathered[:], strict=True)
        outputs: list[bytes] = []
        errors: list[bytes] = []
        for record, text in zip(fields, texts, strict=True):
            if record[3] & OUTPUT:
                outputs.append(text)
            elif record[3] & ERROR:
                errors.append(text)
        synced = self._synced
        records = [mark(self.epoch, synced.output, synced.error, synced.account, self._now())]
        records += map(pack, fields)
        group.fields, group.tokens = fields, tokens
        group.lengths = SegmentLengths(
            synced.output + sum(map(len, outputs)),
            synced.error + sum(map(len, errors)),
            synced.account + len(records) * RECORD_BYTES,
        )
        if outputs:
            yield self.keys.output, outputs
        if errors:
            yield self.keys.error, errors
        yield self.keys.account, [b"".join(records)]


class _Group:
    """What is committed together."""

    __slots__ = ("fields", "lengths", "tokens")

    fields: Sequence[Fields]
    lengths: SegmentLengths  # of the files, once it is durable
    tokens: Sequence[Any]
