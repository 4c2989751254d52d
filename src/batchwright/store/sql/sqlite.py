"""Opening the embedded database.

Rules:

- WAL with `synchronous=FULL`: a commit that returned survives a power cut.
- Exactly one connection, see `Database`.
- A file that is there is opened or refused, never made anew: a new database is built under
  another name and renamed when it is whole, so an empty or half file is always damage.
- No network file system: their locks and shared memory do not hold what SQLite needs.
- Opening is quick: the newest schema is created at once, and Alembic is imported only to upgrade
  an older one.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, insert, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from batchwright.domain.errors import ConfigError, Damaged, StorageError
from batchwright.store.migrations import HEAD
from batchwright.store.schema import METADATA, version
from batchwright.store.sql.database import READS_ONLY, Database, translated

NETWORK_FILE_SYSTEMS = (
    *("9p", "afpfs", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "lustre"),
    *("nfs", "nfs4", "smb2", "smb3", "smbfs"),
)

_PRAGMAS = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # macOS: through the drive's cache; elsewhere without effect
    "PRAGMA checkpoint_fullfsync = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
)


async def open_database(database_url: str) -> Database:
    """The database of a URL, made if it is new, checked and upgraded if it is not."""
    path = _path_of(database_url)
    await asyncio.to_thread(_prepare, path)
    engine = _engine(path)
    database = Database(engine)
    try:
        if await database.transact(_checked_version) != HEAD:
            await database.transact(_upgrade)
    except BaseException:
        await database.close()
        raise
    return database


def network_file_system(path: Path, mountinfo: str) -> str | None:
    """The type of a path's file system if it is a network one (`man 5 proc_pid_mountinfo`)."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(_unescaped(left.split(" ")[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split(" ")[0]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def _unescaped(field: str) -> str:
    """Spaces and the like are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _path_of(database_url: str) -> Path:
    try:
        url = make_url(database_url)
    except ArgumentError as error:
        raise ConfigError(
            f"database_url must look like sqlite:///path, not {database_url!r}"
        ) from error
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        shown = url.render_as_string(hide_password=True)
        raise ConfigError(f"database_url must look like sqlite:///path, not {shown!r}")
    return Path(str(url.database)).absolute()


def _prepare(path: Path) -> None:
    """Refuse what cannot be opened safely; make the database if there is none."""
    _refuse_network_file_system(path)
    if path.exists():
        if path.stat().st_size == 0:
            raise Damaged(f"{path} is empty; restore it from a copy, or move the folder away")
    elif path.with_name(path.name + "-wal").exists():
        raise Damaged(f"{path} is missing, but its write-ahead log is there; restore both")
    else:
        with translated():
            _create(path)


def _refuse_network_file_system(path: Path) -> None:
    """Only Linux tells the type of a mount in a file; elsewhere nothing is refused."""
    with suppress(FileNotFoundError):
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        kind = network_file_system(path.parent.resolve(), mountinfo)
        if kind is not None:
            raise StorageError(
                f"{path} is on a network file system ({kind}), where SQLite can lose data;"
                " choose a data directory on a local disk"
            )


def _create(path: Path) -> None:
    """Build the newest schema under another name, sync it and rename it."""
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    engine = create_engine(URL.create("sqlite", database=str(unfinished)), poolclass=NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("BEGIN")
        METADATA.create_all(connection, checkfirst=False)
        version.create(connection)
        connection.execute(insert(version).values(version_num=HEAD))
    _sync(unfinished)
    unfinished.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        poolclass=StaticPool,
        pool_reset_on_return=None,  # every transaction ends itself
    )
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _configure(connection: Any, record: Any) -> None:
    """Set up the connection; transactions are begun by us, also those that change the schema."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    (mode,) = cursor.fetchone()
    if mode != "wal":
        raise StorageError(f"the file system does not take SQLite's write-ahead log ({mode})")
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    if not connection.get_execution_options().get(READS_ONLY):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


async def _checked_version(connection: AsyncConnection) -> str | None:
    """The schema's version, None before the first. Raises `Damaged` for an unsound database."""
    found = (await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar_one()
    if found != "ok":
        raise Damaged(f"the database is damaged: {found}; restore it from a copy")
    tables = await connection.exec_driver_sql(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    )
    if not tables.scalar_one():
        raise Damaged("the database is not one of batchwright's: it has no schema version")
    found = (await connection.execute(select(version.c.version_num))).scalar_one_or_none()
    if found is not None and found > HEAD:
        raise StorageError(
            f"the database has schema {found}, this version of batchwright knows {HEAD};"
            " install the newer version that wrote it"
        )
    return found


async def _upgrade(connection: AsyncConnection) -> None:
    from batchwright.store.migrations.upgrade import upgrade  # imports Alembic, 0.2 s

    await connection.run_sync(upgrade)
