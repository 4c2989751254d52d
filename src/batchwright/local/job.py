"""What a run is to do: checked whole before anything is made or sent.

A job is of one of two kinds: the rows of a table, each asked the same, or a file of ready requests.
Both give request lines, and write results back to where the user wants them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.engine.results import Settled, Stretch
from batchwright.local.source import Source
from batchwright.local.summary import Causes
from batchwright.tables import (
    InputForm,
    OutputPlan,
    RequestPlan,
    RowResult,
    RunIdentity,
    Table,
    error_path_of,
    open_table,
    override_model,
    plan_output,
    plan_result_lines,
    read_result,
    request_lines,
    result_frame,
    sniff,
    table_of,
    write_output,
    write_result_lines,
)
from batchwright.tables.lines import read_lines

if TYPE_CHECKING:
    import polars as pl

    from batchwright.tables.frames import Rows

CHAT_URL = "/v1/chat/completions"
EMBEDDINGS_URL = "/v1/embeddings"
_PUT_BACK = "put it back and run the same command again; the answers are kept"
_AGAIN = "nothing was sent; run the same command again"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What the user asks for. Texts are the prompts themselves, not the names of files."""

    model: str | None = None
    prompt: str | None = None
    system: str | None = None
    embed: str | None = None  # the column to embed
    params: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    limit: int | None = None  # the first so many rows or requests
    dedupe: bool = False  # what is asked twice is sent once

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit: expected 1 or more, got {self.limit}", param="limit")


class Job(Protocol):
    """A run, before it begins."""

    @property
    def unit(self) -> str:
        """What its numbers count: `row` or `line`."""
        ...

    @property
    def identity(self) -> RunIdentity: ...

    @property
    def url(self) -> str:
        """The endpoint of its requests."""
        ...

    @property
    def model(self) -> str | None:
        """The model of every request; None where each names its own."""
        ...

    @property
    def prefix(self) -> str: ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that `write` writes: first the output."""
        ...

    def request_lines(self) -> Iterator[bytes]:
        """The requests without line ends; a blank line stays, so that numbers agree."""
        ...

    def write(self, results: Iterable[Stretch], causes: Causes) -> None:
        """Write the output, whole or not at all, and note its errors."""
        ...

    def frame(self, results: Iterable[Stretch], causes: Causes) -> pl.DataFrame:
        """The results as a data frame. Needs Polars."""
        ...


@dataclass(frozen=True, slots=True)
class RowsJob:
    """The rows of a table, each asked the same."""

    table: Table
    plan: RequestPlan
    output: OutputPlan
    identity: RunIdentity
    prefix: str
    source: Source | None  # None: rows in memory
    unit: str = "row"

    @property
    def url(self) -> str:
        return self.plan.url

    @property
    def model(self) -> str | None:
        return self.plan.model

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.output.path,)

    def request_lines(self) -> Iterator[bytes]:
        lines = request_lines(self.table, self.plan)
        return lines if self.source is None else self.source.unchanged(lines, advice=_AGAIN)

    def write(self, results: Iterable[Stretch], causes: Causes) -> None:
        write_output(self.table, self.output, self._rows(results, causes))

    def frame(self, results: Iterable[Stretch], causes: Causes) -> pl.DataFrame:
        return result_frame(self.table, self.output, self._rows(results, causes))

    def _rows(self, results: Iterable[Stretch], causes: Causes) -> Iterator[RowResult]:
        """A result for each row. Who takes them all knows that the table is what it was."""
        rows = _rows_of(self.url, _each(results), causes)
        return rows if self.source is None else self.source.unchanged(rows, advice=_PUT_BACK)


@dataclass(frozen=True, slots=True)
class LinesJob:
    """A file of ready requests."""

    source: Source
    output: Path
    identity: RunIdentity
    url: str
    model: str | None = None  # takes the place of each line's
    limit: int | None = None
    prefix: str = ""
    unit: str = "line"

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.output, error_path_of(self.output))

    def request_lines(self) -> Iterator[bytes]:
        return self.source.unchanged(self._request_lines(), advice=_AGAIN)

    def _request_lines(self) -> Iterator[bytes]:
        left = self.limit
        for _, line in read_lines(self.source.path, keep_blank=True):
            if line.strip() and left is not None:
                if left == 0:
                    return
                left -= 1
            yield line if self.model is None else override_model(line, self.model)

    def write(self, results: Iterable[Stretch], causes: Causes) -> None:
        write_result_lines(self.output, self._lines(results, causes))

    def _lines(self, results: Iterable[Stretch], causes: Causes) -> Iterator[Stretch]:
        for stretch in results:
            for failure in stretch.each() if stretch.is_error else ():
                text = read_result(self.url, failure.line).error or ""
                causes.add(failure.number, text, is_failure=True)
            yield stretch

    def frame(self, results: Iterable[Stretch], causes: Causes) -> pl.DataFrame:
        found = list(_each(results))
        rows = list(_rows_of(self.url, found, causes))
        # A request may embed several texts; its vectors come as JSON text.
        is_embedding = self.url == EMBEDDINGS_URL and all(row.answer is None for row in rows)
        table = table_of([{"custom_id": _decode_id(result.line).custom_id} for result in found])
        plan = plan_output(
            self.output.with_suffix(".parquet"),
            table.columns,
            is_embedding=is_embedding,
            is_deduped=self.identity.dedupe,
        )
        return result_frame(table, plan, rows if is_embedding else map(_as_text, rows))


def _as_text(row: RowResult) -> RowResult:
    if row.embedding is None:
        return row
    return replace(row, answer=msgspec.json.encode(row.embedding).decode())


def _each(results: Iterable[Stretch]) -> Iterator[Settled]:
    return chain.from_iterable(stretch.each() for stretch in results)


def _rows_of(url: str, results: Iterable[Settled], causes: Causes) -> Iterator[RowResult]:
    for result in results:
        row = read_result(url, result.line)
        if row.error is not None:
            causes.add(result.number, row.error, is_failure=result.is_error)
        yield row


class _Id(msgspec.Struct):
    custom_id: str = ""


class _Url(msgspec.Struct):
    url: str = CHAT_URL


_decode_id = msgspec.json.Decoder(_Id).decode
_decode_url = msgspec.json.Decoder(_Url).decode


def plan_file(source: Path, output: Path, options: RunOptions) -> RowsJob | LinesJob:
    """The job of an input file. Reads the file once. Raises `UsageError`."""
    form = sniff(source)
    if form.kind == "batch":
        return _plan_lines(form, output, options)
    _require_rows_options(form, options)
    plan = _request_plan(options)
    found = Source.read(source)
    table = open_table(form, limit=options.limit)
    return _rows_job(table, plan, output, options, (found.size_bytes, found.sha256), found)


def plan_rows(rows: Rows, output: Path, options: RunOptions) -> RowsJob:
    """The job of a data frame or a list. Raises `UsageError`."""
    plan = _request_plan(options)
    table = table_of(rows, limit=options.limit)
    if not table.columns:
        raise UsageError("there are no rows: nothing to ask", param="data")
    return _rows_job(table, plan, output, options, _hash_rows(table), None)


def default_output_of(source: Path) -> Path:
    """Beside the input: `reviews.csv` → `reviews.answers.csv`, requests → `….results.jsonl`."""
    form = sniff(source)
    if form.kind == "batch":
        return source.with_name(f"{source.stem}.results.jsonl")
    suffix = source.suffix.lower()
    if form.format != "csv":
        suffix = f".{form.format}"
    elif suffix not in {".csv", ".tsv"}:
        suffix = ".tsv" if form.separator == "\t" else ".csv"
    return source.with_name(f"{source.stem}.answers{suffix}")


def _rows_job(
    table: Table,
    plan: RequestPlan,
    output: Path,
    options: RunOptions,
    content: tuple[int, str],
    source: Source | None,
) -> RowsJob:
    planned = plan_output(
        output,
        table.columns,
        is_embedding=plan.embed is not None,
        is_deduped=options.dedupe,
        prefix=options.prefix,
        source=None if source is None else source.path,
    )
    request_lines(table, plan)  # raises where the prompt does not fit the columns
    return RowsJob(table, plan, planned, _identity(content, options), options.prefix, source)


def _plan_lines(form: InputForm, output: Path, options: RunOptions) -> LinesJob:
    for name in ("prompt", "system", "embed", "params", "prefix"):
        if getattr(options, name):
            raise UsageError(
                f"--{name.removesuffix('s')} is for rows, and {form.path} holds batch requests, "
                "which bring their own",
                param=name,
            )
    path = plan_result_lines(output, source=form.path)
    source = Source.read(form.path)
    identity = _identity((source.size_bytes, source.sha256), options)
    return LinesJob(source, path, identity, url_of(form), options.model, options.limit)


def _require_rows_options(form: InputForm, options: RunOptions) -> None:
    if options.model is None:
        raise UsageError(
            f"{form.path} holds {form.label}, which need a model and a prompt: "
            '--model NAME --prompt "Classify: {column}", or --embed COLUMN',
            param="model",
        )


def _request_plan(options: RunOptions) -> RequestPlan:
    return RequestPlan(
        options.model or "",
        prompt=options.prompt,
        system=options.system,
        embed=options.embed,
        params=options.params,
    )


def _identity(content: tuple[int, str], options: RunOptions) -> RunIdentity:
    identity = RunIdentity(*content)
    return replace(
        identity,
        prompt=options.prompt,
        system=options.system,
        model=options.model,
        embed=options.embed,
        params=options.params,
        limit=options.limit,
        dedupe=options.dedupe,
    )


def url_of(form: InputForm) -> str:
    """The endpoint of a file of requests: that of its first line, which the others must share."""
    first = next(line for _, line in read_lines(form.path))
    try:
        url = _decode_url(first).url
    except msgspec.DecodeError:
        return CHAT_URL  # for the validation to report
    # Azure's clients leave the version out.
    return url if url.startswith("/v1/") or not url.startswith("/") else f"/v1{url}"


def _hash_rows(table: Table) -> tuple[int, str]:
    digest, size_bytes = hashlib.sha256(), 0
    for row in table.objects():
        digest.update(row + b"\n")
        size_bytes += len(row) + 1
    return size_bytes, digest.hexdigest()
