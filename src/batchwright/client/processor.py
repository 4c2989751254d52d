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
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar

from batchwright.client import results as result_lines
from batchwright.client.errors import (
    ApiError,
    BatchInvalid,
    LineError,
    ObjectNotFound,
    RateLimited,
    RequestFailure,
    ServerFailed,
    ServerUnreachable,
    StateConflict,
)
from batchwright.client.http import Client, Json
from batchwright.client.items import EMBEDDINGS, Item, body_of, encode, plain_endpoint
from batchwright.client.progress import Progress, open_progress
from batchwright.client.results import Job, Result, Results
from batchwright.client.splitting import (
    BYTES_PER_BATCH,
    REQUESTS_PER_BATCH,
    Part,
    Plan,
    plan_file,
)
from batchwright.client.sync import run_sync
from batchwright.domain.errors import BatchwrightError, UsageError

A = TypeVar("A")
B = TypeVar("B")

CHAT_ENDPOINT = "/v1/chat/completions"
EMBEDDINGS_ENDPOINT = "/v1/embeddings"

POLL_FIRST_S = 1.0
POLL_GROWTH = 1.5
POLL_MAX_S = 60.0
OUTAGE_MAX_S = 600.0  # how long a server may be away while it is waited for
TRANSFERS_AT_ONCE = 4

_TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})
_PASSING = (ServerUnreachable, ServerFailed, RateLimited)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Where a job stands, over all its batches."""

    status: str  # of the batch that is furthest behind: `in_progress`, `completed`, …
    total: int  # requests; 0 until the server has counted them
    completed: int
    failed: int
    batches: tuple[Json, ...]  # the Batch objects as they came

    @property
    def is_done(self) -> bool:
        return all(_status(batch) in _TERMINAL for batch in self.batches)

    def require_valid(self) -> None:
        """Raise `BatchInvalid` for the first batch whose input was refused."""
        for batch in self.batches:
            if _status(batch) == "failed":
                raise BatchInvalid(str(batch["id"]), line_errors(batch))


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

    async def submit_batch(self, input_path: Path | str, description: str | None = None) -> str:
        """Upload the file and start its batches; see `BatchProcessor`."""
        plan = await asyncio.to_thread(
            plan_file,
            input_path,
            requests_max=self._requests_max,
            size_bytes_max=self._size_bytes_max,
        )
        file_ids = await self._upload(Path(input_path), plan)
        self.last_batch_id = ",".join(await self._create(plan, file_ids, description))
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

    async def _create(self, plan: Plan, file_ids: list[str], description: str | None) -> list[str]:
        """One batch per uploaded part. All of them or none: what was begun is cancelled."""
        created: list[str] = []
        try:
            for number, (part, file_id) in enumerate(zip(plan.parts, file_ids, strict=True), 1):
                batch = await self.client.create_batch(
                    file_id,
                    endpoint=plan.endpoint,
                    completion_window=self._completion_window,
                    metadata=_metadata(description, number, part, plan),
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
        return _job_status(await _side_by_side(self.client.get_batch, _split_ids(batch_id)))

    async def wait(self, batch_id: str, poll_interval: float | None = None) -> JobStatus:
        """Wait until every batch of the job has ended; see `BatchProcessor`."""
        ids = _split_ids(batch_id)
        # The label names the job, so that it can be taken up again after an interruption.
        with open_progress(",".join(ids), self._progress) as bar:
            return await self._poll(ids, poll_interval, bar)

    async def _poll(self, ids: list[str], interval_s: float | None, bar: Progress) -> JobStatus:
        latest: dict[str, Json] = {}
        reached_at = monotonic()
        for delay_s in poll_delays(interval_s):
            waiting = [name for name in ids if _status(latest.get(name, {})) not in _TERMINAL]
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
            status = _job_status([latest[name] for name in ids])
            _show(bar, status)
            status.require_valid()
            if status.is_done:
                break
            await asyncio.sleep(delay_s)
        return status

    async def cancel(self, batch_id: str) -> JobStatus:
        """Cancel what still runs of the job; see `BatchProcessor`."""

        async def cancel_one(name: str) -> Json:
            try:
                return await self.client.cancel_batch(name)
            except StateConflict:  # it has ended
                return await self.client.get_batch(name)

        return _job_status(await _side_by_side(cancel_one, _split_ids(batch_id)))

    # --- results

    async def wait_and_download(
        self, batch_id: str, poll_interval: float | None = None
    ) -> list[Result]:
        """Wait for the job and fetch its results; see `BatchProcessor`."""
        status = await self.wait(batch_id, poll_interval)
        jobs = await self._jobs(status.batches)
        return [result for job in jobs for result in job.results.values()]

    async def retry_failed(
        self,
        batch_id: str,
        poll_interval: float | None = None,
        *,
        input_path: Path | str | None = None,
    ) -> list[Result]:
        """Send only the failed requests again and merge; see `BatchProcessor`."""
        status = await self.wait(batch_id, poll_interval)
        jobs = await self._jobs(status.batches)
        again = [await self._submit_failed(job, status.batches, input_path) for job in jobs]
        self.last_batch_id = ",".join([*_split_ids(batch_id), *filter(None, again)])
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
        **params: Any,
    ) -> list[Result]:
        """Write, submit, wait and fetch; see `BatchProcessor`."""
        with TemporaryDirectory(prefix="batchwright-") as folder:
            path = Path(output_path) if output_path is not None else Path(folder, "input.jsonl")
            await self.create_batch_file(
                items, system_prompt, model, path, endpoint=endpoint, **params
            )
            batch_id = await self.submit_batch(path, description)
        return await self.wait_and_download(batch_id, poll_interval)

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
        ordered = result_lines.in_our_order(found)
        if ordered is not None and len(ordered) == _counts(batch)[0] > 0:
            return ordered
        return await self._in_input_order(batch, found)

    async def _in_input_order(self, batch: Json, found: Results) -> Results:
        """Ask the input file for the order, and for requests without a result line."""
        try:
            names = [name async for name, _ in self._input_lines(batch)]
        except ObjectNotFound:  # deleted: what there is, as it stands
            return result_lines.in_our_order(found) or found
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


class BatchProcessor:
    """Batch jobs from a notebook or a script.

    >>> processor = BatchProcessor()
    >>> results = processor.run(["Great!", "Broke at once."], "Classify.", "builtin/sentiment")
    >>> [result["response"] for result in results]
    ['positive', 'negative']

    The arguments are those of `AsyncBatchProcessor`. Every method blocks until it is done,
    also inside a running notebook; Ctrl-C (or "interrupt kernel") stops the waiting, and the
    batch goes on at the server: `last_batch_id` names it.
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
        self._async = AsyncBatchProcessor(
            api_key,
            base_url,
            progress=progress,
            completion_window=completion_window,
            requests_max=requests_max,
            size_bytes_max=size_bytes_max,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def last_batch_id(self) -> str | None:
        """What the newest submission or retry returned: all that is needed to continue."""
        return self._async.last_batch_id

    def close(self) -> None:
        """Close every connection. Safe twice; batches at the server go on."""
        run_sync(self._async.close())

    def create_batch_file(
        self,
        items: Iterable[Item],
        system_prompt: str | None = None,
        model: str | None = None,
        output_path: Path | str = "batch_input.jsonl",
        *,
        endpoint: str = CHAT_ENDPOINT,
        **params: Any,
    ) -> Path:
        """Write one request per item as a batch input file and return its path.

        `items`: strings, lists of messages, or dicts (`{"id": …, "content": …}`,
        `{"messages": […]}`, fields of the body); an `id` of your own becomes the
        `custom_id`, else it is `request-1`, padded with zeros to the width of the job.
        `params` go into every body as they are (`max_completion_tokens=50`); nothing that
        you do not give is added.
        Raises `UsageError` naming the item for an item of another form or a doubled id.
        """
        return write_batch_file(
            items, system_prompt, model, output_path, endpoint=endpoint, params=params
        )

    def create_embeddings_file(
        self,
        items: Iterable[Item],
        model: str | None = None,
        output_path: Path | str = "batch_input.jsonl",
        **params: Any,
    ) -> Path:
        """Write one embedding request per text and return the path.

        `params` go into every body, such as `dimensions=256`.
        """
        return write_batch_file(
            items, None, model, output_path, endpoint=EMBEDDINGS_ENDPOINT, params=params
        )

    def submit_batch(self, input_path: Path | str, description: str | None = None) -> str:
        """Upload an input file, start its batches, and return their ids joined by commas.

        Any batch input file will do, not only ours. One over 50,000 requests or 200 MB
        becomes several batches that run side by side. `description` is kept in the metadata.
        Raises `UsageError` for a file that is not one, `ApiError`, `ServerUnreachable`.
        """
        return run_sync(self._async.submit_batch(input_path, description))

    def status(self, batch_id: str) -> JobStatus:
        """Where the job stands now: state and counts over all its batches."""
        return run_sync(self._async.status(batch_id))

    def wait(self, batch_id: str, poll_interval: float | None = None) -> JobStatus:
        """Wait until every batch of the job has ended, without fetching its results.

        `poll_interval` in seconds; without it from 1 s growing to 60 s. An outage of the
        server of up to 10 minutes is waited out. Raises `BatchInvalid` as soon as a batch
        fails validation.
        """
        return run_sync(self._async.wait(batch_id, poll_interval))

    def wait_and_download(self, batch_id: str, poll_interval: float | None = None) -> list[Result]:
        """Wait for the job and return a result per item, in the order of the items.

        A result is `{"id", "response", "tokens", "error"}`: `response` is the text (or
        the vector, or the body for other endpoints), `tokens` the total that was counted.
        A request that failed has `response` None and a `RequestFailure` as `error`.
        Of a job that expired or was cancelled you get what there is; the requests that did
        not run are failures (`batch_expired`, `batch_cancelled`).
        Raises `BatchInvalid` with the lines if the input was refused.
        """
        return run_sync(self._async.wait_and_download(batch_id, poll_interval))

    def cancel(self, batch_id: str) -> JobStatus:
        """Cancel what still runs of the job; batches that have ended stay as they are.

        Requests under way may still finish: `wait_and_download` returns the answers.
        """
        return run_sync(self._async.cancel(batch_id))

    def retry_failed(
        self,
        batch_id: str,
        poll_interval: float | None = None,
        *,
        input_path: Path | str | None = None,
    ) -> list[Result]:
        """Send only the failed requests of a job again, and return the merged results.

        It waits for the job first. The failed lines come from the input file at the server,
        or from `input_path` if that is gone. `last_batch_id` then names the job with its
        retry; given to any method, it stands for the merged results.
        Without failures nothing is sent.
        """
        return run_sync(self._async.retry_failed(batch_id, poll_interval, input_path=input_path))

    def run(
        self,
        items: Iterable[Item],
        system_prompt: str | None = None,
        model: str | None = None,
        output_path: Path | str | None = None,
        *,
        endpoint: str = CHAT_ENDPOINT,
        description: str | None = None,
        poll_interval: float | None = None,
        **params: Any,
    ) -> list[Result]:
        """All of it: write the input, submit, wait, and return the results.

        The input file is kept only if `output_path` is given. For embeddings pass
        `endpoint="/v1/embeddings"`. The other arguments are those of `create_batch_file`,
        `submit_batch` and `wait_and_download`.
        """
        return run_sync(
            self._async.run(
                items,
                system_prompt,
                model,
                output_path,
                endpoint=endpoint,
                description=description,
                poll_interval=poll_interval,
                **params,
            )
        )


def write_batch_file(
    items: Iterable[Item],
    system_prompt: str | None,
    model: str | None,
    output_path: Path | str,
    *,
    endpoint: str = CHAT_ENDPOINT,
    params: Json | None = None,
) -> Path:
    """Write the batch input file of `items`; it appears only when it is complete.

    See `BatchProcessor.create_batch_file`.
    """
    sized = items if isinstance(items, Collection) else list(items)
    if isinstance(sized, str | dict):
        raise UsageError(f"items must be a list of items, not one {type(sized).__name__}")
    if len(sized) == 0:  # a data frame's column has no truth value
        raise UsageError("there are no items", param="items")
    url = "/v1" + plain_endpoint(endpoint)
    if plain_endpoint(endpoint) == EMBEDDINGS and system_prompt is not None:
        raise UsageError("embeddings take no system prompt", param="system_prompt")
    target = Path(output_path)
    partial = target.with_name(target.name + ".part")
    with partial.open("wb") as out:
        for name, body in _requests(sized, system_prompt, model, url, params or {}):
            request = {"custom_id": name, "method": "POST", "url": url, "body": body}
            out.write(encode(request) + b"\n")
    partial.replace(target)
    return target


def _requests(
    items: Collection[Item],
    system_prompt: str | None,
    model: str | None,
    url: str,
    params: Json,
) -> Iterator[tuple[str, Json]]:
    """The id and body of each item."""
    endpoint = plain_endpoint(url)
    seen: set[str] = set()
    for number, item in enumerate(items, start=1):
        name = _id_of(item, number, len(items))
        if name in seen:
            raise UsageError(f"item {number}: the id {name!r} is taken by an earlier item")
        seen.add(name)
        try:
            yield (
                name,
                body_of(
                    item, endpoint=endpoint, model=model, system_prompt=system_prompt, params=params
                ),
            )
        except UsageError as error:
            raise UsageError(f"item {number}: {error}", param=error.param) from error


def _id_of(item: Item, number: int, total: int) -> str:
    own = item.get("id") if isinstance(item, dict) else None
    return str(own) if own is not None else result_lines.custom_id(number, total)


def poll_delays(interval_s: float | None = None) -> Iterator[float]:
    """Seconds between polls: always `interval_s`, or from 1 s growing to 60 s."""
    if interval_s is not None:
        yield from repeat(interval_s)
    delay_s = POLL_FIRST_S
    while True:
        yield delay_s
        delay_s = min(delay_s * POLL_GROWTH, POLL_MAX_S)


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


def _split_ids(batch_id: str) -> list[str]:
    """The ids in a string of ids joined by commas, each once."""
    names = [name.strip() for name in batch_id.split(",")]
    ids = list(dict.fromkeys(name for name in names if name))
    if not ids:
        raise UsageError("batch_id is empty", param="batch_id")
    return ids


def _metadata(description: str | None, number: int, part: Part, plan: Plan) -> dict[str, str]:
    metadata = {"description": description[:512]} if description else {}
    if len(plan.parts) > 1:
        metadata |= {"part": f"{number}/{len(plan.parts)}", "first_line": str(part.first_line)}
    return metadata


def _status(batch: Json) -> str:
    return str(batch.get("status") or "").lower()


def _counts(batch: Json) -> tuple[int, int, int]:
    """total, completed, failed; zeros where the server does not say."""
    counts = batch.get("request_counts") or {}
    total, completed, failed = (int(counts.get(k) or 0) for k in ("total", "completed", "failed"))
    return total, completed, failed


_BEHIND = (
    "validating",
    "in_progress",
    "cancelling",
    "finalizing",
    "failed",
    "expired",
    "cancelled",
)


def _job_status(batches: list[Json]) -> JobStatus:
    states = [_status(batch) for batch in batches]
    sums = [sum(column) for column in zip(*map(_counts, batches), strict=True)]
    status = next((state for state in _BEHIND if state in states), states[0])
    return JobStatus(status, sums[0], sums[1], sums[2], tuple(batches))


def _show(bar: Progress, status: JobStatus) -> None:
    failed = f" · {status.failed:,} failed" if status.failed else ""
    bar.show(status.completed + status.failed, status.total, status.status + failed)


def line_errors(batch: Json) -> list[LineError]:
    """Why the input of a Batch object was refused, by line."""
    errors = batch.get("errors") or {}
    entries = errors.get("data") or [] if isinstance(errors, dict) else errors
    first_line = (batch.get("metadata") or {}).get("first_line", "1")
    offset = int(first_line) - 1 if str(first_line).isdigit() else 0
    return [
        LineError(
            code=str(entry.get("code") or "invalid"),
            message=str(entry.get("message") or ""),
            line=entry["line"] + offset if isinstance(entry.get("line"), int) else None,
            param=entry.get("param"),
        )
        for entry in entries
    ]


def _no_result(batch: Json) -> RequestFailure:
    """What stands for a request that neither result file mentions."""
    status = _status(batch)
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
