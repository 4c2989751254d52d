"""The order in which the requests of a batch go out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from batchwright.domain.errors import UsageError

ORDER = "order"  # an option of a batch


class Order(StrEnum):
    """Which request is next, spelled as on the wire."""

    INPUT = "input"
    PREFIX = "prefix"  # those whose prompts begin alike one after the other


PROMPT_FIELDS: Mapping[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("tools", "functions", "response_format", "messages"),
    "/v1/responses": ("tools", "text", "instructions", "input"),
    "/v1/completions": ("prompt",),
}
"""The endpoints with a prompt that providers cache, and its fields in the order in which a model
sees them: tools and schemas come before every message (developers.openai.com, "Prompt caching";
docs.anthropic.com, "Prompt caching"; chat templates of open models do the same)."""


def order_of(name: str, *, param: str = ORDER) -> Order:
    """An order by its name. Raises `UsageError`."""
    if name not in list(Order):
        supported = ", ".join(f"'{order}'" for order in Order)
        raise UsageError(
            f"Invalid value: '{name[:200]}'. Supported values are: {supported}.",
            param=param,
            code="invalid_value",
        )
    return Order(name)


def check_order(order: Order, endpoint: str, *, param: str = ORDER) -> None:
    """Raises `UsageError` where an order means nothing for the requests to an endpoint."""
    if order is Order.PREFIX and endpoint not in PROMPT_FIELDS:
        served = ", ".join(PROMPT_FIELDS)
        raise UsageError(
            f"Invalid '{param}': '{order}' is for {served}; no provider caches the prompts of "
            f"{endpoint}.",
            param=param,
            code="invalid_value",
        )
