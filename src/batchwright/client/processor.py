"""A batch job from a list of items to a list of answers, over any OpenAI-compatible API.

    items ─► create_batch_file ─► submit_batch ─► wait_and_download ─► results
              a JSONL file         ids joined       in the order
                                   by commas        of the items

What `submit_batch` returns is all that has to be kept: a later session, on another machine
too, continues with it. Only calls of OpenAI's Files and Batches API are used.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, time
from types import TracebackType
from typing import Any, Self, TypeVar

from batchwright.client import results as result_lines
from batchwright.client.api import Client
from batchwright.client.errors import (
    ApiError,
    BatchInvalid,
    ObjectNotFound,
    RateLimited,
    RequestFailure,
    ServerFailed,
    ServerUnreachable,
    StateConflict,
)
from batchwright.client.http import Json
from batchwright.client.input_file import CHAT_ENDPOINT, EMBEDDINGS_ENDPOINT, write_batch_file
from batchwright.client.items import Item, plain_endpoint
from batchwright.client.job_status import (
    TERMINAL,
    JobStatus,
    job_status,
    split_ids,
    status_of,
)
from batchwright.client.progress import Progress, open_progress
from batchwright.client.results import Job, Result, Results
from batchwright.client.splitting import (
    BYTES_PER_BATCH,
    REQUESTS_PER_BATCH,
    Numbered,
    Part,
    Plan,
    plan_file,
)
from batchwright.domain.errors import BatchwrightError, UsageError

A = TypeVar("A")
B = TypeVar("B")

POLL_FIRST_S = 1.0
POLL_GROWTH = 1.5
POLL_MAX_S = 60.0
OUTAGE_MAX_S = 600.0  # how long a server may be away while it is waited for
TRANSFERS_AT_ONCE = 4

# What we keep in the metadata of a batch.
REQUEST_IDS = "request_ids"  # that its ids are of our making, and which: see `Numbered`
JOB = "job"  # the same on every part of an input that became several batches

_PASSING = (ServerUnreachable, ServerFailed, RateLimited)


class AsyncBatchProcessor:
    """Batch jobs from a coroutine; `BatchProcessor` is the same for ordinary code.

    `api_key`, `base_url`: any OpenAI-compatible API; by default `BATCHWRIGHT_API_KEY` and
    `BATCHWRIGHT_BASE_URL`, else the server that runs on this machine, whose address and key
    lie in `BATCHWRIGHT_DATA_DIR` or `./batchwright-data`.
    `progress`: None shows a bar in a terminal or a notebook, False never.
    `completion_window`: handed to the API with each batch.
    `requests_max`, `size_bytes_max`: larger inputs become several batches (the defaults are
    OpenAI's limits).
    """

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        progress: bool | None = None,
        completion_window: str = "24h",
        requests_max: int = REQUESTS_PER_BATCH,
        size_bytes_max: int = BYTES_PER_BATCH,
    ) -> None:
        self.client = Client(api_key, base_url)
        self.last_batch_id: str | None = None  # what the newest submission returned
        self._progress = progress
        self._completion_window = completion_window
        self._requests_max = requests_max
        self._size_bytes_max = size_bytes_max

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Safe twice; batches at the server go on."""
        await self.client.close()

    # --- making the input file

    async def create_batch_file(
        self,
        items: Iterable[Item],
        system_prompt: str | None = None,
        model: str | None = None,
        output_path: Path | str = "batch_input.jsonl",
        *,
        endpoint: str = CHAT_ENDPOINT,
        **params: Any,
    ) -> Path:
        """Write one request per item as a batch input file; see `BatchProcessor`."""
        return await asyncio.to_thread(
            write_batch_file,
            items,
            system_prompt,
            model,
            output_path,
            endpoint=endpoint,
            params=params,
        )

    async def create_embeddings_file(
        self,
        items: Iterable[Item],
        model: str | None = None,
        output_path: Path | str = "batch_input.jsonl",
        **params: Any,
    ) -> Path:
        """Write one embedding request per text; see `BatchProcessor`."""
        return await asyncio.to_thread(
            write_batch_file,
            items,
            None,
            model,
            output_path,
            endpoint=EMBEDDINGS_ENDPOINT,
            params=params,
        )

    # --- submitting

    async def submit_batch(
        self,
        input_path: Path | str,
        description: str | None = None,
        *,
        batch_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Upload the file and start its batches; see `BatchProcessor`."""
        plan = await asyncio.to_thread(
            plan_file,
            input_path,
            requests_max=self._requests_max,
            size_bytes_max=self._size_bytes_max,
        )
        file_ids = await self._upload(Path(input_path), plan)
        created = await self._create(plan, file_ids, description, batch_options)
        self.last_batch_id = ",".join(created)
        return self.last_batch_id

    async def _upload(self, path: Path, plan: Plan) -> list[str]:
        with open_progress("upload (MB)", self._progress) as bar:
            sent_bytes = 0

            def on_bytes(size: int) -> None:
                nonlocal sent_bytes
                sent_bytes += size
                bar.show(sent_bytes // 1_000_000, max(1, plan.size_bytes // 1_000_000))

            async def upload(part: Part) -> str:
                file = await self.client.upload_file(
                    path, start=part.start, size_bytes=part.size_bytes, on_bytes=on_bytes
                )
                return str(file["id"])

            return await _side_by_side(upload, plan.parts)

    async def _create(
        self,
        plan: Plan,
        file_ids: list[str],
        description: str | None,
        options: Mapping[str, Any] | None,
    ) -> list[str]:
        """One batch per uploaded part. All of them or none: what was begun is cancelled."""
        created: list[str] = []
        job = uuid.uuid4().hex
        try:
            for number, (part, file_id) in enumerate(zip(plan.parts, file_ids, strict=True), 1):
                batch = await self.client.create_batch(
                    file_id,
                    endpoint=plan.endpoint,
                    completion_window=self._completion_window,
                    metadata=_metadata(description, number, part, plan, job),
                    extra={"batchwright": dict(options)} if options else None,
                    is_fresh_file=True,
                )
                created.append(str(batch["id"]))
        except BaseException:
            for batch_id in created:
                await self._cancel_quietly(batch_id)
            raise
        return created

    async def _cancel_quietly(self, batch_id: str) -> None:
        try:
            await self.client.cancel_batch(batch_id)
        except (ApiError, ServerUnreachable):
            return

    # --- watching

    async def status(self, batch_id: str) -> JobStatus:
        """Where the job stands now; see `BatchProcessor`."""
        return job_status(await _side_by_side(self.client.get_batch, split_ids(batch_id)))

    async def wait(self, batch_id: str, poll_interval: float | None = None) -> JobStatus:
        """Wait until every batch of the job has ended; see `BatchProcessor`."""
        ids = split_ids(batch_id)
        with open_progress("", self._progress, job=",".join(ids)) as bar:
            return await self._poll(ids, poll_interval, bar)

    async def _poll(self, ids: list[str], interval_s: float | None, bar: Progress) -> JobStatus:
        latest: dict[str, Json] = {}
        cancelled: dict[str, None] = {}
        reached_at = monotonic()
        for delay_s in poll_delays(interval_s):
            waiting = [name for name in ids if status_of(latest.get(name, {})) not in TERMINAL]
            try:
                newest = await _side_by_side(self.client.get_batch, waiting)
                latest.update(zip(waiting, newest, strict=True))
                reached_at = monotonic()
            except _PASSING:
                # The batch runs at the server: a restart there must not end the wait.
                if monotonic() - reached_at > OUTAGE_MAX_S:
                    raise
                await asyncio.sleep(delay_s)
                continue
            status = job_status([latest[name] for name in ids])
            _show(bar, status)
            if status.is_done:
                break
            for name in _left_of_refused(status.batches):
                if name not in cancelled:
                    await self._cancel_quietly(name)
                    cancelled[name] = None
            if interval_s is None:
                delay_s = until_poll_s(delay_s, status.batches, now=time())
            await asyncio.sleep(delay_s)
        status.require_valid(cancelled=tuple(cancelled))
        return status

    async def cancel(self, batch_id: str) -> JobStatus:
        """Cancel what still runs of the job; see `BatchProcessor`."""

        async def cancel_one(name: str) -> Json:
            try:
                return await self.client.cancel_batch(name)
            except StateConflict:  # it has ended
                return await self.client.get_batch(name)

        return job_status(await _side_by_side(cancel_one, split_ids(batch_id)))

    # --- results

    async def wait_and_download(
        self, batch_id: str, poll_interval: float | None = None
    ) -> list[Result]:
        """Wait for the job and fetch its results; see `BatchProcessor`."""
        jobs = await self._jobs((await self._wait(batch_id, poll_interval)).batches)
        return [result for job in jobs for result in job.results.values()]

    async def retry_failed(
        self,
        batch_id: str,
        poll_interval: float | None = None,
        *,
        input_path: Path | str | None = None,
    ) -> list[Result]:
        """Send only the failed requests again and merge; see `BatchProcessor`."""
        status = await self._wait(batch_id, poll_interval)
        jobs = await self._jobs(status.batches)
        again = [await self._submit_failed(job, status.batches, input_path) for job in jobs]
        self.last_batch_id = ",".join([*split_ids(batch_id), *filter(None, again)])
        if not any(again):
            return [result for job in jobs for result in job.results.values()]
        return await self.wait_and_download(self.last_batch_id, poll_interval)

    async def run(
        self,
        items: Iterable[Item],
        system_prompt: str | None = None,
        model: str | None = None,
        output_path: Path | str | None = None,
        *,
        endpoint: str = CHAT_ENDPOINT,
        description: str | None = None,
        poll_interval: float | None = None,
        batch_options: Mapping[str, Any] | None = None,
        **params: Any,
    ) -> list[Result]:
        """Write, submit, wait and fetch; see `BatchProcessor`."""
        with TemporaryDirectory(prefix="batchwright-") as folder:
            path = Path(output_path) if output_path is not None else Path(folder, "input.jsonl")
            await self.create_batch_file(
                items, system_prompt, model, path, endpoint=endpoint, **params
            )
            batch_id = await self.submit_batch(path, description, batch_options=batch_options)
        return await self.wait_and_download(batch_id, poll_interval)

    async def _wait(self, batch_id: str, poll_interval: float | None) -> JobStatus:
        """`wait`; where a batch was refused, the error has the results of the others."""
        try:
            return await self.wait(batch_id, poll_interval)
        except BatchInvalid as invalid:
            try:
                batches = (await self.status(batch_id)).batches
                jobs = await self._jobs([each for each in batches if status_of(each) != "failed"])
            except (ApiError, ServerUnreachable) as error:
                invalid.add_note(f"The results of the others could not be fetched: {error}")
                raise invalid from error
            invalid.results = [result for job in jobs for result in job.results.values()]
            raise

    async def _jobs(self, batches: Iterable[Json]) -> list[Job]:
        return result_lines.merge(await _side_by_side(self._results_of, list(batches)))

    async def _results_of(self, batch: Json) -> Results:
        """Every result of one batch, in the order of its input."""
        endpoint = plain_endpoint(str(batch.get("endpoint") or CHAT_ENDPOINT))
        found: Results = {}
        for file_id in (batch.get("output_file_id"), batch.get("error_file_id")):
            if file_id:  # null where no request succeeded, or none failed
                async for line in self.client.iter_lines(file_id):
                    result = result_lines.read_result(line, endpoint)
                    found[result["id"]] = result
        numbered = Numbered.parse((batch.get("metadata") or {}).get(REQUEST_IDS))
        ids = numbered.ids if numbered is not None else []
        if ids and found.keys() == set(ids):
            return {name: found[name] for name in ids}
        return await self._in_input_order(batch, found, ids)

    async def _in_input_order(self, batch: Json, found: Results, ids: list[str]) -> Results:
        """Ask the input file for the order, and for requests without a result line."""
        try:
            names = [name async for name, _ in self._input_lines(batch)]
        except ObjectNotFound:  # deleted: what there is, as it stands
            return {name: found[name] for name in ids if name in found} | found
        return result_lines.in_order_of(names, found, _no_result(batch))

    async def _input_lines(self, batch: Json) -> AsyncIterator[tuple[str, bytes]]:
        """`custom_id` and bytes of each line of a batch's input file."""
        async for line in self.client.iter_lines(str(batch["input_file_id"])):
            yield _custom_id(line), line

    async def _submit_failed(
        self, job: Job, batches: tuple[Json, ...], input_path: Path | str | None
    ) -> str | None:
        """Submit the failed requests of one job as a new batch; None if there are none."""
        wanted = set(result_lines.failed_ids(job.results))
        if not wanted:
            return None
        with TemporaryDirectory(prefix="batchwright-") as folder:
            path = Path(folder, "retry.jsonl")
            lines = self._lines_to_repeat(job, batches, input_path, wanted)
            await _write_lines(path, lines)
            if wanted:
                raise BatchwrightError(
                    f"the input of {len(wanted):,} failed requests was not found, "
                    f"{min(wanted)} for one"
                )
            return await self.submit_batch(path, f"retry of {batches[job.members[0]]['id']}")

    async def _lines_to_repeat(
        self,
        job: Job,
        batches: tuple[Json, ...],
        input_path: Path | str | None,
        wanted: set[str],
    ) -> AsyncIterator[bytes]:
        """The lines of the `wanted` ids, each taken out of `wanted` as it is found."""
        if input_path is not None:
            for line in await asyncio.to_thread(_stripped_lines, Path(input_path), wanted):
                wanted.discard(_custom_id(line))
                yield line
            return
        for place in job.members:
            if not wanted:
                return
            async for name, line in self._input_lines_or_explain(batches[place]):
                if name in wanted:
                    wanted.discard(name)
                    yield line

    async def _input_lines_or_explain(self, batch: Json) -> AsyncIterator[tuple[str, bytes]]:
        try:
            async for name, line in self._input_lines(batch):
                yield name, line
        except ObjectNotFound as error:
            raise UsageError(
                f"the input file {batch['input_file_id']} is gone from the server; "
                "pass the local one as input_path=…",
                param="input_path",
            ) from error


def poll_delays(interval_s: float | None = None) -> Iterator[float]:
    """Seconds between polls: always `interval_s`, or from 1 s growing to 60 s."""
    if interval_s is not None:
        yield from repeat(interval_s)
    delay_s = POLL_FIRST_S
    while True:
        yield delay_s
        delay_s = min(delay_s * POLL_GROWTH, POLL_MAX_S)


def until_poll_s(delay_s: float, batches: Collection[Json], *, now: float) -> float:
    """`delay_s`, or less where the server expects all batches to end before it is over.

    `now` in Unix seconds. At least the first delay, as the end may be later than expected.
    """
    running = [batch for batch in batches if status_of(batch) not in TERMINAL]
    ends: list[float | None] = [
        (batch.get("batchwright") or {}).get("expected_finish_at") for batch in running
    ]
    known = [end for end in ends if end is not None]
    if not known or len(known) < len(ends):
        return delay_s
    return min(delay_s, max(POLL_FIRST_S, max(known) - now))


async def _side_by_side(
    work: Callable[[A], Awaitable[B]], values: Collection[A], *, at_once: int = TRANSFERS_AT_ONCE
) -> list[B]:
    """`work` for each value, a few at a time, in order; the first error ends the others."""
    gate = asyncio.Semaphore(at_once)

    async def one(value: A) -> B:
        async with gate:
            return await work(value)

    tasks = [asyncio.create_task(one(value)) for value in values]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _metadata(
    description: str | None, number: int, part: Part, plan: Plan, job: str
) -> dict[str, str]:
    metadata = {"description": description[:512]} if description else {}
    if part.numbered is not None:
        metadata[REQUEST_IDS] = str(part.numbered)
    if len(plan.parts) > 1:
        place = {"part": f"{number}/{len(plan.parts)}", "first_line": str(part.first_line)}
        metadata |= {**place, JOB: job}
    return metadata


def _left_of_refused(batches: Collection[Json]) -> list[str]:
    """The ids of the batches that still run although another part of their input was refused."""
    refused = {_job_of(batch) for batch in batches if status_of(batch) == "failed"} - {None}
    return [
        str(batch["id"])
        for batch in batches
        if _job_of(batch) in refused and status_of(batch) not in TERMINAL
    ]


def _job_of(batch: Json) -> str | None:
    name = (batch.get("metadata") or {}).get(JOB)
    return name if isinstance(name, str) else None


def _show(bar: Progress, status: JobStatus) -> None:
    failed = f" · {status.failed:,} failed" if status.failed else ""
    bar.show(status.completed + status.failed, status.total, status.status + failed)


def _no_result(batch: Json) -> RequestFailure:
    """What stands for a request that neither result file mentions."""
    status = status_of(batch)
    if status in ("expired", "cancelled"):
        return RequestFailure(f"batch_{status}", f"the batch was {status} before this request ran")
    return RequestFailure("missing_result", "the server returned no result for this request")


def _custom_id(line: bytes) -> str:
    try:
        return str(json.loads(line.removeprefix(b"\xef\xbb\xbf"))["custom_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise BatchwrightError(f"an input line cannot be read: {line[:200]!r}") from error


async def _write_lines(path: Path, lines: AsyncIterator[bytes]) -> None:
    with await asyncio.to_thread(path.open, "wb") as out:
        async for line in lines:
            out.write(line + b"\n")


def _stripped_lines(path: Path, wanted: set[str]) -> list[bytes]:
    """The lines of the `wanted` ids in a local input file."""
    with path.open("rb") as lines:
        stripped = (line.strip() for line in lines)
        return [line for line in stripped if line and _custom_id(line) in wanted]
