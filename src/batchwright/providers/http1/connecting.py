"""How a connection to a server comes about."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

from batchwright.domain.errors import NotSent
from batchwright.providers.http1.connection import Connection
from batchwright.providers.http1.head import Address

NEXT_ADDRESS_S = 1.0  # of several addresses each but the last has so long


Where = tuple[Any, ...]
"""An address of a host, as the system gives it: with the port, and for IPv6 some more."""


async def connect(
    address: Address, made: Callable[[], Connection], failed: dict[Address, set[Where]]
) -> Connection:
    """A new connection to the first address of a host that answers. Raises `NotSent`.

    The addresses are tried one after the other and not in a race (RFC 8305), which uvloop has not:
    a dead one before the right one costs a second. So those that did not answer the last time are
    noted in `failed` and tried last, and the second is spent once. The others stay in the order in
    which they were found, which a name with several servers gives in turns.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotSent(f"cannot connect: {_reason(error)}") from error
    failed_before = failed.setdefault(address, set())
    failed_before.intersection_update(each[4] for each in found)
    found.sort(key=lambda each: each[4] in failed_before)
    for place, (family, _, _, _, where) in enumerate(found, 1):
        is_last = place == len(found)
        try:
            async with asyncio.timeout(None if is_last else NEXT_ADDRESS_S):
                connection = await _connect(made, family, where)
        except OSError as error:  # a timeout, too
            failed_before.add(where)
            if is_last:
                raise NotSent(f"cannot connect: {_reason(error)}") from error
            continue
        failed_before.discard(where)
        return connection
    raise NotSent("cannot connect: the host has no address")


async def _connect(made: Callable[[], Connection], family: int, where: Where) -> Connection:
    loop = asyncio.get_running_loop()
    host, port, *_ = where
    _, connection = await loop.create_connection(made, host, port, family=family)
    return connection


def _reason(error: OSError | UnicodeError) -> str:
    """What the system says: the text of the event loop has the address in it."""
    if isinstance(error, UnicodeError):
        return "not the name of a host"
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or type(error).__name__
    return os.strerror(error.errno)
