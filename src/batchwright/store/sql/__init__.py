"""The store in an SQL database, through SQLAlchemy Core; SQLite is the embedded one."""

from __future__ import annotations

from batchwright.store.sql.engine import SqlEngineStore
from batchwright.store.sql.sqlite import open_database
from batchwright.store.sql.tenant import SqlTenantStore

__all__ = ["SqlStore"]


class SqlStore(SqlTenantStore, SqlEngineStore):
    """`TenantStore` and `EngineStore` in one database. Made by `open`, ended by `close`."""

    @classmethod
    async def open(cls, database_url: str) -> SqlStore:
        """Open `sqlite:///relative/path` or `sqlite:////absolute/path`; make it if it is new.

        Raises `Damaged` for a file that is no sound database of ours (never replaced by a new
        one), `StorageError` for one that a newer version wrote, `ConfigError` for another URL.
        """
        return cls(await open_database(database_url))

    async def close(self) -> None:
        """End the connection. Safe twice."""
        await self._database.close()
