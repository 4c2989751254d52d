"""Our own options of a batch: what stands under the key `batchwright` of a body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchwright.domain.batch import CACHE, DEDUPE
from batchwright.domain.errors import UsageError
from batchwright.domain.order import ORDER, Order, order_of
from batchwright.domain.priority import Priority
from batchwright.domain.window import AGE_S_MAX
from batchwright.server.fields import boolean, text, whole_number, wrong_type, wrong_value

KEY = "batchwright"
MAX_AGE = "max_age_s"


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The options of a body, checked; None is what was not given."""

    priority: Priority | None = None
    dedupe: bool | None = None
    order: Order | None = None
    cache: dict[str, int] | None = None

    @property
    def kept(self) -> dict[str, Any]:
        """Those that a batch keeps as they were given."""
        given = {
            DEDUPE: self.dedupe,
            ORDER: self.order and self.order.value,
            CACHE: self.cache,
        }
        return {name: value for name, value in given.items() if value is not None}


def batch_options(body: Mapping[str, Any]) -> BatchOptions:
    """Read them. One that is not known is refused: it would do nothing, and nobody would know."""
    given = body.get(KEY)
    if given is None:
        return BatchOptions()
    if not isinstance(given, dict):
        raise wrong_type(KEY, "an object", given)
    for name in given:
        if name not in _READERS:
            known = ", ".join(f"'{KEY}.{each}'" for each in _READERS)
            raise UsageError(
                f"Unknown parameter: '{KEY}.{name[:200]}'. Supported are: {known}.",
                param=f"{KEY}.{name[:200]}",
                code="unknown_parameter",
            )
    read = {
        name: _READERS[name](value, f"{KEY}.{name}")
        for name, value in given.items()
        if value is not None
    }
    return BatchOptions(**read)


def priority_of(value: Any, param: str) -> Priority:
    """A level by its name."""
    named = text(value, param)
    if named not in list(Priority):
        raise wrong_value(param, named, ", ".join(f"'{level}'" for level in Priority))
    return Priority(named)


def _order_of(value: Any, param: str) -> Order:
    return order_of(text(value, param), param=param)


def _cache_of(value: Any, param: str) -> dict[str, int]:
    """`{"max_age_s": N}`."""
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    for name in value:
        if name != MAX_AGE:
            raise UsageError(
                f"Unknown parameter: '{param}.{name[:200]}'. Supported is: '{param}.{MAX_AGE}'.",
                param=f"{param}.{name[:200]}",
                code="unknown_parameter",
            )
    named = f"{param}.{MAX_AGE}"
    if value.get(MAX_AGE) is None:
        raise UsageError(
            f"Missing required parameter: '{named}'.",
            param=named,
            code="missing_required_parameter",
        )
    max_age_s = whole_number(value[MAX_AGE], named)
    if not 1 <= max_age_s <= AGE_S_MAX:
        raise UsageError(
            f"Invalid '{named}': expected 1 to {AGE_S_MAX}, but got {max_age_s}.",
            param=named,
            code="invalid_value",
        )
    return {MAX_AGE: max_age_s}


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "priority": priority_of,
    DEDUPE: boolean,
    ORDER: _order_of,
    CACHE: _cache_of,
}
