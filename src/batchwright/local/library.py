"""`run`: the engine inside a program or a notebook, the same as `batchwright run`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchwright.client.progress import Progress, open_progress
from batchwright.client.sync import run_sync
from batchwright.config import Config, load_config
from batchwright.domain.order import Order, check_order, order_of
from batchwright.engine.results import Stretch
from batchwright.local.job import Job, RunOptions, plan_file, plan_rows
from batchwright.local.logs import quiet_logs
from batchwright.local.progress import Snapshot
from batchwright.local.runner import Controls, config_for_run, run_job, settle_state
from batchwright.local.state import RunState, open_state, state_folder_of
from batchwright.local.summary import Causes
from batchwright.tables import read_prompt
from batchwright.tables.polars_extra import require_polars

if TYPE_CHECKING:
    import polars as pl

    from batchwright.tables.frames import Rows


def run(
    data: str | Path | Rows,
    *,
    model: str | None = None,
    prompt: str | None = None,
    system: str | None = None,
    embed: str | None = None,
    output: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
    prefix: str = "",
    limit: int | None = None,
    dedupe: bool = False,
    concurrency: int | None = None,
    order: str = "input",
    retry_failed: bool = False,
    restart: bool = False,
    force: bool = False,
    config: str | Path | Config | None = None,
    progress: bool | None = None,
) -> pl.DataFrame:
    """Ask a model about every row of `data`, with the engine in this process.

    `data` is the path of a CSV, JSONL or Parquet file or of a file of batch requests, a Polars or
    pandas frame, a list of dictionaries, or a list of strings (column `text`). `prompt` is a
    template such as `"Classify: {review}"`, or `"@file"`, and so is `system` without columns;
    `embed` names a column to embed instead.

    Returns the rows in their order with the columns `answer` (or `embedding`), `tokens` and
    `error`; for batch requests the column `custom_id` before them. A row that failed has its
    `error`; nothing is raised for it. With `dedupe` what is asked twice is sent once, and the
    column `copied_from` has the number of the row that was sent (from 1).

    `order="prefix"` sends requests whose prompts begin alike one after the other, so that the
    provider's prompt cache hits; the rows come back in their own order all the same.

    With `output` the same is written there too, and a run that was stopped or killed goes on when
    it is called again: an answer that was recorded is never paid for again. Works where an event
    loop runs already, as in a notebook. `progress`: None shows a bar in a terminal or a notebook.
    Raises `UsageError` for wrong arguments or input (nothing was sent), and other
    `BatchwrightError`s where the run cannot go on.
    """
    return run_sync(
        run_async(
            data,
            model=model,
            prompt=prompt,
            system=system,
            embed=embed,
            output=output,
            params=params,
            prefix=prefix,
            limit=limit,
            dedupe=dedupe,
            concurrency=concurrency,
            order=order,
            retry_failed=retry_failed,
            restart=restart,
            force=force,
            config=config,
            progress=progress,
        )
    )


async def run_async(
    data: str | Path | Rows,
    *,
    model: str | None = None,
    prompt: str | None = None,
    system: str | None = None,
    embed: str | None = None,
    output: str | Path | None = None,
    params: Mapping[str, Any] | None = None,
    prefix: str = "",
    limit: int | None = None,
    dedupe: bool = False,
    concurrency: int | None = None,
    order: str = "input",
    retry_failed: bool = False,
    restart: bool = False,
    force: bool = False,
    config: str | Path | Config | None = None,
    progress: bool | None = None,
) -> pl.DataFrame:
    """`run` as a coroutine. Cancelling it stops sending and keeps what comes back."""
    require_polars()
    options = RunOptions(
        model=model,
        prompt=None if prompt is None else read_prompt(prompt),
        system=None if system is None else read_prompt(system),
        embed=embed,
        params=dict(params or {}),
        prefix=prefix,
        limit=limit,
        dedupe=dedupe,
    )
    settings = config if isinstance(config, Config) else load_config(config)
    call = _Call(
        data,
        options,
        settings,
        concurrency,
        order_of(order),
        retry_failed,
        restart,
        force,
        progress,
    )
    if output is not None:
        return await call.into(Path(output))
    with tempfile.TemporaryDirectory(prefix="batchwright-") as folder:
        return await call.into(Path(folder) / "answers.jsonl", is_kept=False)


class _Call:
    """One call of `run`."""

    def __init__(
        self,
        data: Any,
        options: RunOptions,
        config: Config,
        concurrency: int | None,
        order: Order,
        retry_failed: bool,
        restart: bool,
        force: bool,
        progress: bool | None,
    ) -> None:
        self._data = data
        self._options = options
        self._config = config
        self._concurrency = concurrency
        self._order = order
        self._retry_failed = retry_failed
        self._restart = restart
        self._force = force
        self._progress = progress

    async def into(self, output: Path, *, is_kept: bool = True) -> pl.DataFrame:
        job = await asyncio.to_thread(self._plan, output)
        check_order(self._order, job.url)
        with quiet_logs(), open_state(state_folder_of(output)) as state:
            return await self._run(job, state, is_kept)

    def _plan(self, output: Path) -> Job:
        if isinstance(self._data, (str, Path)):
            return plan_file(Path(self._data), output, self._options)
        return plan_rows(self._data, output, self._options)

    async def _run(self, job: Job, state: RunState, is_kept: bool) -> pl.DataFrame:
        manifest = settle_state(
            job,
            state,
            restart=self._restart,
            force=self._force,
            retry_failed=self._retry_failed,
        )

        def deliver(read: Callable[[], Iterator[Stretch]], causes: Causes) -> pl.DataFrame:
            frame = job.frame(read(), causes)
            # As the state has it now: a retry takes it back that the output is finished.
            if is_kept and not (manifest.is_finished and (state.load() or manifest).is_finished):
                job.write(read(), Causes())
            return frame

        with open_progress("run", self._progress) as bar:
            _, frame = await run_job(
                job,
                state,
                manifest,
                deliver,
                config=config_for_run(
                    self._config, state.data_dir(manifest), concurrency=self._concurrency
                ),
                controls=Controls(observer=_shown_on(bar), stop=asyncio.Event()),
                retry_failed=self._retry_failed,
                order=self._order,
            )
        return frame


def _shown_on(bar: Progress) -> Callable[[Snapshot], None]:
    def show(snapshot: Snapshot) -> None:
        note = f"{snapshot.failed:,} failed" if snapshot.failed else ""
        bar.show(snapshot.done, snapshot.total, note or snapshot.phase)

    return show
