"""From a list of items to a batch input file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from batchwright.client import results as result_lines
from batchwright.client.http import Json
from batchwright.client.items import (
    EMBEDDINGS,
    Item,
    body_of,
    encode,
    plain_endpoint,
    require_list,
    require_no_options,
)
from batchwright.domain.errors import UsageError
from batchwright.replacing import replacing

CHAT_ENDPOINT = "/v1/chat/completions"
EMBEDDINGS_ENDPOINT = "/v1/embeddings"

_BATCH_OPTIONS = ("dedupe", "order", "priority", "cache")
_WHERE = {
    **{
        name: f"pass batch_options={{{name!r}: …}} to submit_batch or run"
        for name in _BATCH_OPTIONS
    },
    "batch_options": "pass it to submit_batch or run",
    "completion_window": "pass it to BatchProcessor(…)",
}


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
    require_list(items)
    require_no_options(params or {}, _WHERE)
    sized = items if isinstance(items, Collection) else list(items)
    if len(sized) == 0:  # a data frame's column has no truth value
        raise UsageError("there are no items", param="items")
    url = "/v1" + plain_endpoint(endpoint)
    if plain_endpoint(endpoint) == EMBEDDINGS and system_prompt is not None:
        raise UsageError("embeddings take no system prompt", param="system_prompt")
    target = Path(output_path)
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"output_path: expected a file in a folder that exists, got {target}")
    with replacing(target) as temporary, temporary.open("wb") as out:
        for name, body in _requests(sized, system_prompt, model, url, params or {}):
            request = {"custom_id": name, "method": "POST", "url": url, "body": body}
            out.write(encode(request) + b"\n")
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
