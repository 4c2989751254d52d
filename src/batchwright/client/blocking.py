"""The processor of batch jobs for ordinary code: every method blocks until it is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from batchwright.client.input_file import CHAT_ENDPOINT, EMBEDDINGS_ENDPOINT, write_batch_file
from batchwright.client.items import Item
from batchwright.client.job_status import JobStatus
from batchwright.client.processor import AsyncBatchProcessor
from batchwright.client.results import Result
from batchwright.client.splitting import BYTES_PER_BATCH, REQUESTS_PER_BATCH
from batchwright.client.sync import run_sync


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

    def submit_batch(
        self,
        input_path: Path | str,
        description: str | None = None,
        *,
        batch_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Upload an input file, start its batches, and return their ids joined by commas.

        Any batch input file will do, not only ours. One over 50,000 requests or 200 MB
        becomes several batches that run side by side. `description` is kept in the metadata.
        `batch_options` are those of a batchwright server (`{"dedupe": True}`); others refuse them.
        Raises `UsageError` for a file that is not one, `ApiError`, `ServerUnreachable`.
        """
        return run_sync(
            self._async.submit_batch(input_path, description, batch_options=batch_options)
        )

    def status(self, batch_id: str) -> JobStatus:
        """Where the job stands now: state and counts over all its batches."""
        return run_sync(self._async.status(batch_id))

    def wait(self, batch_id: str, poll_interval: float | None = None) -> JobStatus:
        """Wait until every batch of the job has ended, without fetching its results.

        `poll_interval` in seconds; without it from 1 s growing to 60 s, and less where the
        server expects the end sooner. An outage of the server of up to 10 minutes is waited
        out. Raises `BatchInvalid` where a batch failed validation; the other batches of that
        input are cancelled first.
        """
        return run_sync(self._async.wait(batch_id, poll_interval))

    def wait_and_download(self, batch_id: str, poll_interval: float | None = None) -> list[Result]:
        """Wait for the job and return a result per item, in the order of the items.

        A result is `{"id", "response", "tokens", "error"}`: `response` is the text (or
        the vector, or the body for other endpoints), `tokens` the total that was counted.
        A request that failed has `response` None and a `RequestFailure` as `error`.
        Of a job that expired or was cancelled you get what there is; the requests that did
        not run are failures (`batch_expired`, `batch_cancelled`).
        Raises `BatchInvalid` with the lines if the input was refused; `results` of the error
        has what the other batches of a split job had answered.
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
        batch_options: Mapping[str, Any] | None = None,
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
                batch_options=batch_options,
                **params,
            )
        )
