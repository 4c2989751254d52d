"""Prices per token, from the snapshot that the `genai-prices` package carries: no network.

The package is imported at the first question, as it takes a quarter of a second.
"""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache
from typing import Any

from batchwright.engine.routing import Rates

_NANO_PER_TOKEN = 1000  # a dollar per million tokens is a thousand billionths per token
_FREE = frozenset({"builtin", "sandbox"})
_MOVED = {"https://api.together.ai": "https://api.together.xyz"}
"""Addresses of providers whom the package knows at an older one."""


@lru_cache(maxsize=4096)
def rates(kind: str, model: str, base_url: str | None = None) -> Rates | None:
    """The rates of a model in billionths of a dollar per token; None where none are known.

    `kind` names the provider, such as `openai`; a `base_url` says more exactly who it is.
    Where the price depends on the length of the prompt, it is that of short ones.
    """
    if kind in _FREE:
        return Rates()
    price = _price(kind, model, base_url)
    if price is None or price.input_mtok is None:
        return None
    fresh = _nano(price.input_mtok)
    cached = _nano(price.cache_read_mtok) if price.cache_read_mtok is not None else fresh
    return Rates(input=fresh, cached=cached, output=_nano(price.output_mtok))


def _price(kind: str, model: str, base_url: str | None) -> Any:
    from genai_prices import Usage, calc_price

    nothing = Usage(input_tokens=0, output_tokens=0)
    try:
        if base_url:
            found = calc_price(nothing, model, provider_api_url=_known_address(base_url))
        else:
            found = calc_price(nothing, model, provider_id=kind)
    except LookupError:
        return None
    return found.model_price


def _known_address(base_url: str) -> str:
    for new, old in _MOVED.items():
        if base_url.startswith(f"{new}/"):
            return old + base_url.removeprefix(new)
    return base_url


def _nano(price: Any) -> float:
    """A price per million tokens, flat or by tiers, in billionths of a dollar per token."""
    if price is None:
        return 0.0
    base = price if isinstance(price, Decimal) else price.base
    return float(base) * _NANO_PER_TOKEN
