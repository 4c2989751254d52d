"""Our own options of a batch: what stands under the key `batchwright` of a body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchwright.domain.batch import DEDUPE
from batchwright.domain.errors import UsageError
from batchwright.domain.order import ORDER, Order, order_of
from batchwright.domain.priority import Priority
from batchwright.server.fields import boolean, text, wrong_type, wrong_value

KEY = "batchwright"


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """The options of a body, checked; None is what was not given."""

    priority: Priority | None = None
    dedupe: bool | None = None
    order: Order | None = None

    @property
    def kept(self) -> dict[str, Any]:
        """Those that a batch keeps as they were given."""
        given = {DEDUPE: self.dedupe, ORDER: self.order and self.order.value}
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


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "priority": priority_of,
    DEDUPE: boolean,
    ORDER: _order_of,
}
