"""The builtin account: always there, without key, network or price."""

from __future__ import annotations

from collections.abc import Mapping

from batchwright.domain.limits import LimitSeen
from batchwright.providers.base import Call
from batchwright.providers.builtin.models import MODELS
from batchwright.providers.builtin.transport import BuiltinTransport

_ORIGIN = "builtin://local"
_HEADERS = {"content-type": "application/json"}


class BuiltinProvider:
    """The provider of the models in `MODELS`; the caller closes its transport."""

    name = "builtin"
    kind = "builtin"

    def __init__(
        self,
        transport: BuiltinTransport,
        *,
        timeout_s: float = 120.0,
        answer_bytes_max: int = 128 * 1024 * 1024,
    ) -> None:
        self.transport = transport
        self._timeout_s = timeout_s
        self._answer_bytes_max = answer_bytes_max

    def prepare(self, url: str, body: bytes) -> Call:
        """The call for a request; `url` is its path."""
        return Call(
            method="POST",
            url=_ORIGIN + url,
            headers=_HEADERS,
            body=body,
            timeout_s=self._timeout_s,
            answer_bytes_max=self._answer_bytes_max,
        )

    def read_limits(
        self, headers: Mapping[str, str], now_s: float, *, is_refusal: bool = False
    ) -> tuple[LimitSeen, ...]:
        """There are none."""
        return ()

    async def list_models(self) -> list[str]:
        """The names of the embedded models, with their prefix."""
        return list(MODELS)
