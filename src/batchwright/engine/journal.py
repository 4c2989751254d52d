"""The journal: the truth about what is done, written by continuous group commit.

While one group is being written and synced off the event loop, the next gathers; there is no timer.
Only what is synced reaches the tally and `on_durable`. A failed write or sync stops the journal at
once and is never retried on the same files: what they then hold is for recovery to find out. The
tokens of what is not durable then, and will not be, go to `on_failed`, at once and as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
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
        self._gathering = _Group()
        self._lengths = [0, 0, 0]  # appended: output, error, account
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
        self._lengths[0] = offset + length
        self._gathering.output.append(text)
        if at is None:
            at = self._now()
        head = self._head(attempt, OUTPUT)
        self._gather((*head, *sums, at, offset, length, crc32(text)), token)

    def add_error(self, text: bytes, attempt: Attempt, token: Any = None) -> None:
        """Gather the result line of a request that ends without success."""
        offset, length = self._lengths[1], len(text)
        self._lengths[1] = offset + length
        self._gathering.error.append(text)
        head = self._head(attempt, ERROR)
        self._gather((*head, *NO_SUMS, self._now(), offset, length, crc32(text)), token)

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

    def _gather(self, fields: Fields, token: Any) -> None:
        if self.failure is not None:
            self._on_failed((token,))  # nothing that comes now will be written
            return
        group = self._gathering
        if not group.fields:
            self._wake.set()
            self._idle.clear()
        group.fields.append(fields)
        group.tokens.append(token)

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
            group, self._gathering = self._gathering, _Group()
            if group.fields:
                try:
                    await self._commit(group)
                except StorageError as error:
                    self._fail(error, group)
                    return
                except Exception as error:  # a bug stops its batch, and says so
                    self._fail(Damaged(f"{type(error).__name__}: {error}"), group)
                    return
            if not self._gathering.fields:
                self._idle.set()
                if self._closing:
                    return

    def _fail(self, error: StorageError, group: _Group) -> None:
        """Write nothing any more, and hand back what was held for what is lost."""
        self.failure = error
        self._idle.set()
        self._on_failed([*group.tokens, *self._gathering.tokens])

    async def _commit(self, group: _Group) -> None:
        synced = self._synced
        epoch = self.epoch
        account = [mark(epoch, synced.output, synced.error, synced.account, self._now())]
        account += map(pack, group.fields)
        self._lengths[2] += len(account) * RECORD_BYTES
        lengths, keys = SegmentLengths(*self._lengths), self.keys  # nothing is gathered meanwhile
        records = [b"".join(account)]
        writes = [(keys.output, group.output), (keys.error, group.error), (keys.account, records)]
        await self._blobs.append([write for write in writes if write[1]])
        self._synced = lengths
        self.tally.apply_all(group.fields)
        self._on_durable(group.tokens)


class _Group:
    """What is committed together."""

    __slots__ = ("error", "fields", "output", "tokens")

    def __init__(self) -> None:
        self.output: list[bytes] = []
        self.error: list[bytes] = []
        self.fields: list[Fields] = []
        self.tokens: list[Any] = []
