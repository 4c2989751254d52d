"""CSV, JSONL, Parquet and data frames ⇄ requests and results.

The order of use:

1. `sniff` tells what an input file is; `open_table` (or `table_of`, for frames and lists) gives
   its rows.
2. `plan_output` checks the output before anything is sent; `request_lines` makes a request of
   each row.
3. `read_result` takes a result line apart; `write_output` writes the table with its results,
   `write_result_lines` the lines themselves.

Polars is needed for Parquet and frames alone, and loaded only then.
"""

from __future__ import annotations

from batchwright.tables.answers import RowResult, extract, read_result
from batchwright.tables.frames import TEXT_COLUMN, result_frame, table_of
from batchwright.tables.identity import RunIdentity, hash_file
from batchwright.tables.inputs import InputForm, sniff
from batchwright.tables.outputs import (
    LinesWritten,
    OutputPlan,
    error_path_of,
    plan_output,
    plan_result_lines,
    write_output,
    write_result_lines,
)
from batchwright.tables.prompts import Prompt, compile_prompt, read_prompt
from batchwright.tables.requests import (
    RequestPlan,
    override_model,
    parse_param,
    request_lines,
)
from batchwright.tables.table import Table, open_table

__all__ = [
    "TEXT_COLUMN",
    "InputForm",
    "LinesWritten",
    "OutputPlan",
    "Prompt",
    "RequestPlan",
    "RowResult",
    "RunIdentity",
    "Table",
    "compile_prompt",
    "error_path_of",
    "extract",
    "hash_file",
    "open_table",
    "override_model",
    "parse_param",
    "plan_output",
    "plan_result_lines",
    "read_prompt",
    "read_result",
    "request_lines",
    "result_frame",
    "sniff",
    "table_of",
    "write_output",
    "write_result_lines",
]
