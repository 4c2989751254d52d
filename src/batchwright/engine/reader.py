"""The reader: goes through the input of a batch ahead of its lanes.

One scan reads the lines and offers each request to the batch, which takes it unless the lane has
enough to do. In a batch of one model the scan then waits. In a batch of several it leaves that
lane behind: a scan of its own, from that line on, takes the lane's lines alone, and the first scan
goes on for the others. So a lane that stands still holds nobody up, whatever the order of the
lines, and what is kept of it is a place in the file. Requests for a model whose provider has not
yet said what it serves are left behind in the same way.

A model keeps its route as long as the reader lives, so that a line belongs to one scan.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum, auto
from typing import Protocol

from batchwright.domain.batch import Batch
from batchwright.domain.lines import Line
from batchwright.domain.request import Request
from batchwright.engine.input import read_request
from batchwright.engine.lane import Lane
from batchwright.engine.line_source import LineSource
from batchwright.engine.routing import Route, Router, UnknownModel
from batchwright.engine.runtime import Runtime

ROUTE_EVERY_S = 1.0  # how often a model is looked for whose provider has not answered yet


class _Unrouted(Enum):
    """In the place of a lane, for the models that had no route when they were first met."""

    UNROUTED = auto()


_UNROUTED = _Unrouted.UNROUTED
_Share = Lane | _Unrouted
"""What a scan of its own takes of the lines."""


class Sink(Protocol):
    """Where requests go: the batch that runs."""

    def offer(self, request: Request, route: Route) -> bool:
        """Take a request; False, and nothing done, where its lane has enough to do."""
        ...

    def refuse(self, request: Request, message: str) -> None:
        """Take a request whose model nobody serves."""
        ...


class Reader:
    """Reads the undone lines of one batch, once. `go_on` when a lane may have room again."""

    def __init__(
        self,
        batch: Batch,
        *,
        source: LineSource,
        runtime: Runtime,
        router: Router,
        is_done: Callable[[int], bool] | None,
        sink: Sink,
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        """`is_done` is None where no line can be. `on_end` is called after the last line, or with
        what has kept the reader from it."""
        self.has_ended = False
        self._endpoint = batch.endpoint
        self._model = batch.model  # None: several
        self._has_shares = batch.model is None and len(router.lanes) > 1
        self._source = source
        self._runtime = runtime
        self._router = router
        self._is_done = is_done
        self._sink = sink
        self._on_end = on_end
        self._routes: dict[str, Route | None] = {}  # by model; None: unrouted
        self._left: dict[_Share, None] = {}  # what has a scan of its own
        self._scans: dict[asyncio.Task[None], None] = {}
        self._room = asyncio.Event()

    def start(self) -> None:
        self._start_scan(self._source.lines(), None)

    def stop(self) -> None:
        """Read nothing more. Safe twice."""
        for scan in list(self._scans):
            scan.cancel()

    def go_on(self) -> None:
        """A lane runs low, or something else has become free: offer again."""
        self._room.set()

    def _start_scan(self, pieces: AsyncIterator[Iterator[Line]], share: _Share | None) -> None:
        task = asyncio.get_running_loop().create_task(self._scan(pieces, share))
        self._scans[task] = None
        task.add_done_callback(self._on_scanned)

    def _on_scanned(self, task: asyncio.Task[None]) -> None:
        del self._scans[task]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self.stop()
            self._on_end(error)
        elif not self._scans:
            self.has_ended = True
            self._on_end(None)

    async def _scan(self, pieces: AsyncIterator[Iterator[Line]], share: _Share | None) -> None:
        """Read lines: what is in `share`, or all that nobody else reads."""
        is_done, endpoint, model = self._is_done, self._endpoint, self._model
        known, has_shares, offer = self._routes, self._has_shares, self._sink.offer
        async for piece in pieces:
            for line in piece:
                if is_done is not None and is_done(line.number):
                    continue
                request = read_request(line, endpoint, model)
                route = known.get(request.model) or self._route(request.model)
                if has_shares and not self._is_in(share, route):
                    continue
                if route is None or not offer(request, route):
                    await self._pass_late(request, route, share, piece, line)

    def _is_in(self, share: _Share | None, route: Route | None) -> bool:
        of_line = _UNROUTED if route is None else route.lane
        return of_line not in self._left if share is None else of_line is share

    async def _pass_late(
        self,
        request: Request,
        route: Route | None,
        share: _Share | None,
        piece: Iterator[Line],
        line: Line,
    ) -> None:
        """Leave behind, or wait for, a request that has no route or whose lane is full.

        `line` is its own, `piece` what that comes from.
        """
        if self._has_shares and share is None and (route or self._router.unheard):
            share = _UNROUTED if route is None else route.lane
            self._left[share] = None
            self._start_scan(self._source.rest(piece, line), share)
            return
        route = route or await self._late_route(request)
        while route is not None and not self._sink.offer(request, route):
            self._room.clear()
            await self._room.wait()

    def _route(self, model: str) -> Route | None:
        """The route of a model; the same answer each time."""
        try:
            return self._routes[model]
        except KeyError:
            pass
        route = self._find(model)
        if route is not None or self._has_shares:
            self._routes[model] = route
        return route

    def _find(self, model: str) -> Route | None:
        try:
            return self._router.find(model)
        except UnknownModel:
            return None

    async def _late_route(self, request: Request) -> Route | None:
        """A route once every account has said what it serves; None, and refused, if none is."""
        while True:
            try:
                return self._router.find(request.model)
            except UnknownModel as error:
                if not self._router.unheard:
                    self._sink.refuse(request, str(error))
                    return None
            await self._runtime.sleep(ROUTE_EVERY_S)
