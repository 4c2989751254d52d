"""Rows to batch requests: one line of JSON each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batchwright.domain.errors import UsageError
from batchwright.tables.prompts import compile_prompt, require_column
from batchwright.tables.table import Table

CHAT_URL = "/v1/chat/completions"
EMBEDDINGS_URL = "/v1/embeddings"

_OWN_PARAMS = {
    "model": "--model",
    "messages": "--prompt and --system",
    "input": "--embed",
}
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """What is asked about each row. Either `prompt` or `embed` is set.

    Raises `UsageError` for anything else, and for a parameter that has an option of its own.
    """

    model: str
    prompt: str | None = None  # the template, as `read_prompt` gives it
    system: str | None = None  # a system message, taken as it is: no columns in it
    embed: str | None = None  # the column to embed
    params: Mapping[str, Any] = field(default_factory=dict)  # further fields of the body

    def __post_init__(self) -> None:
        if not self.model:
            raise UsageError("rows need a model: --model NAME", param="model")
        if self.prompt is None and self.embed is None:
            raise UsageError(
                'rows need a prompt (--prompt "Classify: {column}") or a column to embed '
                "(--embed COLUMN)"
            )
        if self.prompt is not None and self.embed is not None:
            raise UsageError(
                "--prompt asks about each row and --embed embeds a column: give one of them",
                param="embed",
            )
        if self.embed is not None and self.system is not None:
            raise UsageError("--system goes with --prompt, not with --embed", param="system")
        for name, option in _OWN_PARAMS.items():
            if name in self.params:
                raise UsageError(f"--param {name}: use {option}", param=name)
        if self.params.get("stream"):
            raise UsageError("--param stream: an answer is one line of a file", param="stream")

    @property
    def url(self) -> str:
        """The endpoint that every request goes to."""
        return CHAT_URL if self.embed is None else EMBEDDINGS_URL


def request_lines(table: Table, plan: RequestPlan) -> Iterator[bytes]:
    """The request of each row, without line ends. The `custom_id` is `row-1` and so on."""
    if plan.embed is not None:
        require_column(plan.embed, table.columns, asked_by="--embed")
        return _lines(table, (plan.embed,), lambda cells: cells[0] or "", plan)
    prompt = compile_prompt(plan.prompt or "", table.columns)
    return _lines(table, prompt.columns, prompt.render, plan)


def override_model(line: bytes, model: str) -> bytes:
    """The request line with another model; all other values stay byte for byte.

    A line that is no request is returned unchanged, for the validation to report.
    """
    try:
        request = _OBJECT.decode(line)
        body = _OBJECT.decode(request["body"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, RecursionError):
        return line
    body["model"] = msgspec.Raw(msgspec.json.encode(model))
    request["body"] = msgspec.Raw(msgspec.json.encode(body))
    return msgspec.json.encode(request)


def parse_param(argument: str) -> tuple[str, Any]:
    """`NAME=VALUE` of `--param`: the value is JSON where it reads as JSON, else text."""
    name, equals, value = argument.partition("=")
    if not name or not equals:
        raise UsageError(f'--param {argument}: NAME=VALUE is expected, as in "seed=7"')
    try:
        return name, msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return name, value


def _lines(
    table: Table,
    columns: Sequence[str],
    content_of: Callable[[Sequence[str | None]], str],
    plan: RequestPlan,
) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode
    head, tail = _around_content(plan)
    for number, cells in enumerate(table.texts(columns), start=1):
        yield b'{"custom_id":"row-%d",%b%b%b' % (number, head, encode(content_of(cells)), tail)


def _around_content(plan: RequestPlan) -> tuple[bytes, bytes]:
    """What stands before and behind the only part that differs between rows."""
    encode = msgspec.json.encode
    params = b"".join(
        b",%b:%b" % (encode(name), encode(value)) for name, value in plan.params.items()
    )
    head = b'"method":"POST","url":%b,"body":{"model":%b' % (encode(plan.url), encode(plan.model))
    if plan.embed is not None:
        return head + b',"input":', params + b"}}"
    system = b""
    if plan.system is not None:
        system = b'{"role":"system","content":%b},' % encode(plan.system)
    messages = b',"messages":[' + system + b'{"role":"user","content":'
    return head + messages, b"}]" + params + b"}}"
