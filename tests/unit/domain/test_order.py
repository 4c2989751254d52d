"""The orders in which requests go out."""

from __future__ import annotations

import pytest

from batchwright.domain.errors import UsageError
from batchwright.domain.order import Order, check_order, order_of


def test_an_order_is_known_by_its_name() -> None:
    assert [order_of("input"), order_of("prefix")] == [Order.INPUT, Order.PREFIX]


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'random'\. Supported values are: 'input', 'prefix'"):
        order_of("random")


def test_prefixes_mean_nothing_where_no_prompt_is_cached() -> None:
    check_order(Order.PREFIX, "/v1/responses")
    check_order(Order.INPUT, "/v1/embeddings")
    with pytest.raises(UsageError, match="caches the prompts of /v1/embeddings") as refused:
        check_order(Order.PREFIX, "/v1/embeddings", param="batchwright.order")
    assert refused.value.param == "batchwright.order"
