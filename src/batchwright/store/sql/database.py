"""Transactions: one at a time, whole, with errors in our own words."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from batchwright.domain.errors import Damaged, NoSpace, StorageError

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="SqlPart")

READS_ONLY = "reads_only"  # the execution option of connections that change nothing


class Database:
    """One database and its only connection.

    The lock makes the transactions of all tasks follow one another. SQLite needs that: versions
    before 3.51.3 can damage a database when two connections write or checkpoint at the same time
    (sqlite.org, "WAL-reset bug"). With one connection no version can, so none is refused.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(**{READS_ONLY: True})
        self._lock = asyncio.Lock()

    async def transact(
        self, work: Callable[[AsyncConnection], Awaitable[T]], *, reads_only: bool = False
    ) -> T:
        """Run `work` in one transaction.

        Work that `reads_only` is spared the statement that begins one: nothing else can come
        between, and each statement costs several changes of thread.
        A caller that is cancelled leaves only when the transaction has ended: broken off in the
        middle, it would take the connection with it.
        """
        async with self._lock:
            task = asyncio.create_task(self._transact(work, reads_only))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                while not task.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()  # seen: the cancellation is what the caller hears of
                raise

    async def _transact(
        self, work: Callable[[AsyncConnection], Awaitable[T]], reads_only: bool
    ) -> T:
        with translated():
            async with (self._reading if reads_only else self._engine).begin() as connection:
                return await work(connection)

    async def close(self) -> None:
        """End the connection. Safe twice."""
        async with self._lock:
            await self._engine.dispose()


class SqlPart:
    """A part of the store's methods, over the one database."""

    def __init__(self, database: Database) -> None:
        self._database = database


def transaction(
    method: Callable[Concatenate[S, AsyncConnection, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Make of a method that takes a connection one that is a transaction of its own."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.transact(
            lambda connection: method(self, connection, *args, **kwargs)
        )

    return run


def reading(
    method: Callable[Concatenate[S, AsyncConnection, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """As `transaction`, for a method that changes nothing."""

    @wraps(method)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.transact(
            lambda connection: method(self, connection, *args, **kwargs), reads_only=True
        )

    return run


@contextmanager
def translated() -> Iterator[None]:
    """Turn a driver's errors into ours. The statement's values never get into the message."""
    try:
        yield
    except DBAPIError as error:
        raise _translation(error.orig) from error
    except sqlite3.Error as error:
        raise _translation(error) from error


def _translation(error: BaseException | None) -> StorageError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extension in the high bits
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Damaged(f"the database is damaged: {error}")
    if code == sqlite3.SQLITE_FULL:
        return NoSpace("the database cannot grow: no space left")
    return StorageError(f"the database failed: {error}")
