"""Who asks: from the key of a request to a tenant and a role.

The tenant comes from the key alone. What is known of a key is remembered for some seconds under
its full digest, never under a part of its text, so that a call does not wait for the database.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers

from batchwright.domain.key import Key, digest_of, lookup_id
from batchwright.engine.bucket import Bucket, take, wait_s
from batchwright.server.errors import TooManyRequests, Unauthorized
from batchwright.store.base import EngineStore

TOKEN_LENGTH_MIN = 32  # that of a key which the operator chose; ours are longer
TOKEN_LENGTH_MAX = 512
REMEMBERED_S = 5.0
REMEMBERED_MAX = 10_000
ADDRESSES_MAX = 10_000

_NOBODY = bytes(32)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from."""

    tenant: str
    role: str
    key_id: str

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


class Authenticator:
    """Checks keys, and slows down addresses that keep failing."""

    def __init__(
        self,
        *,
        store: EngineStore,
        pepper: bytes,
        monotonic: Callable[[], float],
        failures_per_minute: int,
        address_is_client: bool = True,
    ) -> None:
        self._store = store
        self._pepper = pepper
        self._monotonic = monotonic
        self._address_is_client = address_is_client
        # Entries stay when their time is over: their keys held once.
        self._remembered: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._revocations = 0
        self._failures = Buckets(failures_per_minute / 60, failures_per_minute, monotonic)

    async def authenticate(self, headers: Headers, address: str) -> Caller:
        """Raises `Unauthorized`; or `TooManyRequests` where an address fails too often.

        Such an address gets no key looked up but those that held before, so it learns nothing;
        unless it is that of a proxy, where one client would lock all others out.
        """
        token = _token(headers)
        key_id = _key_id(token)
        digest = _NOBODY if key_id is None else digest_of(self._pepper, token)
        if self._address_is_client and digest not in self._remembered:
            self._check(self._failures.wait_s(address))
        caller = None if key_id is None else await self._caller(key_id, digest)
        if caller is None:
            self._check(self._failures.take(address))
            raise Unauthorized
        return caller

    def forget(self) -> None:
        """Look every key up again: one was revoked."""
        self._revocations += 1
        for digest, (caller, _) in self._remembered.items():
            self._remembered[digest] = (caller, -math.inf)

    def _check(self, wait_s: float) -> None:
        if wait_s > 0:
            raise TooManyRequests(
                "Too many requests with a wrong API key.", retry_after_s=wait_s, is_curable=False
            )

    async def _caller(self, key_id: str, digest: bytes) -> Caller | None:
        found = self._remembered.get(digest)
        if found is not None and found[1] > self._monotonic():
            return found[0]
        revocations = self._revocations
        key = await self._store.find_key(key_id)
        if not _is_same(key, digest):
            self._remembered.pop(digest, None)
            return None
        assert key is not None  # noqa: S101 - told by the line above
        caller = Caller(key.tenant, key.role, key.id)
        if revocations == self._revocations:  # else it may have been read before it was revoked
            self._remember(digest, caller)
        return caller

    def _remember(self, digest: bytes, caller: Caller) -> None:
        self._remembered[digest] = (caller, self._monotonic() + REMEMBERED_S)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)


class Buckets:
    """A token bucket for each name, for a bounded number of names: the oldest are forgotten."""

    def __init__(self, rate_per_s: float, burst: float, monotonic: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def wait_s(self, name: str) -> float:
        """Seconds until one can be taken; 0: now. Takes none."""
        bucket = self._buckets.get(name)
        return 0.0 if bucket is None else wait_s(bucket, 1, self._monotonic())

    def take(self, name: str) -> float:
        """Take one and return 0; or take none and return the seconds to wait."""
        now = self._monotonic()
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(self._rate_per_s, self._burst, self._burst, now)
            if len(self._buckets) > ADDRESSES_MAX:
                self._buckets.popitem(last=False)
        wait = wait_s(bucket, 1, now)
        if wait == 0:
            take(bucket, 1, now)
        return wait


def _token(headers: Headers) -> str:
    """The key in `Authorization: Bearer`, or in the `api-key` of Azure's clients."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("api-key", "")


def _key_id(token: str) -> str | None:
    """Where to look a key up; None for junk, which is never looked up."""
    return lookup_id(token) if TOKEN_LENGTH_MIN <= len(token) <= TOKEN_LENGTH_MAX else None


def _is_same(key: Key | None, digest: bytes) -> bool:
    """An unknown id takes the same work as a wrong secret."""
    kept = _NOBODY if key is None else key.digest
    is_equal = hmac.compare_digest(kept, digest)
    return is_equal and key is not None and key.revoked_at is None
