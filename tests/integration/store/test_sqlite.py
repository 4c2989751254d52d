"""What only a real database file can show: restarts, damage, versions, cancellation."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from batchwright.domain.batch import Batch, Status, advance
from batchwright.domain.errors import ConfigError, Damaged, NoSpace, StorageError
from batchwright.domain.segment import Segment
from batchwright.store.migrations import HEAD
from batchwright.store.migrations.upgrade import config
from batchwright.store.schema import METADATA
from batchwright.store.sql import SqlStore
from batchwright.store.sql import sqlite as opening


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "batchwright.db"


async def opened(path: Path) -> SqlStore:
    return await SqlStore.open(f"sqlite:///{path}")


async def made(path: Path) -> None:
    await (await opened(path)).close()


def a_batch(batch_id: str) -> Batch:
    return Batch(batch_id, "acme", "/v1/embeddings", "file-1", "24h", 0.0, None)


def schema_of(path: Path) -> list[tuple[str, str, str]]:
    connection = sqlite3.connect(path)
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE tbl_name != 'alembic_version'"
        " AND sql IS NOT NULL ORDER BY type, name"
    ).fetchall()
    connection.close()
    return rows


def without_a_version(path: Path) -> None:
    """A database from before the first migration."""
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)")
    connection.close()


async def test_what_was_acknowledged_is_there_after_a_restart(path: Path) -> None:
    store = await opened(path)
    batch = await store.take_over(await store.create_batch("acme", a_batch("batch_1")), [])
    running = advance(batch, Status.IN_PROGRESS, 1.0)
    await store.save_batch(running, was=batch)
    await store.close()

    again = await opened(path)

    assert await again.unfinished_batches() == [running]
    assert await again.segments("batch_1") == [Segment("batch_1", 1, None)]
    await again.close()


async def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    program = f"""
import asyncio, os, signal
from batchwright.domain.batch import Batch
from batchwright.store.sql import SqlStore
async def main():
    store = await SqlStore.open("sqlite:///{path}")
    for number in range(5):
        batch = Batch(f"batch_{{number}}", "acme", "/v1/embeddings", "f", "24h", 0.0, None)
        await store.create_batch("acme", batch)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert killed.returncode == -9

    store = await opened(path)

    assert len(await store.unfinished_batches()) == 5
    await store.close()


async def test_the_database_is_durable_strict_and_for_the_owner_alone(path: Path) -> None:
    store = await opened(path)

    async def pragma(name: str) -> object:
        async def ask(connection):  # type: ignore[no-untyped-def]
            return (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()

        return await store._database.transact(ask)

    assert await pragma("journal_mode") == "wal"
    assert await pragma("synchronous") == 2  # FULL
    assert await pragma("foreign_keys") == 1
    assert await pragma("busy_timeout") == 5_000
    for name in os.listdir(path.parent):
        assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600, name
    await store.close()


async def test_all_tasks_share_one_connection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[object] = []
    configure = opening._configure
    monkeypatch.setattr(
        opening, "_configure", lambda *args: (connections.append(args[0]), configure(*args))
    )
    store = await opened(path)

    await asyncio.gather(
        *(store.create_batch("acme", a_batch(f"batch_{n}")) for n in range(20)),
        *(store.unfinished_batches() for _ in range(20)),
    )

    assert len(connections) == 1
    await store.close()


async def test_a_cancelled_caller_leaves_a_whole_transaction_and_a_usable_store(
    path: Path,
) -> None:
    store = await opened(path)

    for number in range(20):
        creating = asyncio.create_task(store.create_batch("acme", a_batch(f"batch_{number}")))
        for _ in range(number):
            await asyncio.sleep(0)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating

    await store.create_batch("acme", a_batch("batch_99"))
    assert "batch_99" in [batch.id for batch in await store.unfinished_batches()]
    await store.close()


async def test_close_is_safe_twice(path: Path) -> None:
    store = await opened(path)
    await store.close()
    await store.close()


async def test_migrations_and_metadata_build_the_same_schema(path: Path, tmp_path: Path) -> None:
    await made(path)
    migrated = tmp_path / "migrated" / "batchwright.db"
    without_a_version(migrated)

    await made(migrated)

    def plain(rows: list[tuple[str, str, str]]) -> list[tuple[str, ...]]:
        return [tuple("".join(part.split()) for part in row) for row in rows]

    assert plain(schema_of(migrated)) == plain(schema_of(path))
    assert {row[1] for row in schema_of(path)} >= set(METADATA.tables)


def made_by_version(path: Path, revision: str, *statements: str) -> None:
    """A database as an older version left it."""
    path.parent.mkdir()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        older = config()
        older.attributes["connection"] = connection
        command.upgrade(older, revision)
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


async def test_batches_from_before_priorities_are_normal_and_not_paused(path: Path) -> None:
    made_by_version(
        path,
        "0001",
        "INSERT INTO batches (id, tenant, endpoint, input_file_id, completion_window, created_at,"
        " status, errors, count_total, count_completed, count_failed, closing, options, epoch)"
        " VALUES ('batch_1', 'acme', '/v1/embeddings', 'file-1', '24h', 0, 'validating', '[]',"
        " 0, 0, 0, '{}', '{}', 0)",
    )

    store = await opened(path)

    assert await store.unfinished_batches() == [a_batch("batch_1")]
    await store.close()


async def test_a_killed_upgrade_leaves_the_older_schema(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_step(*args: object) -> None:
        raise sqlite3.OperationalError("killed")

    without_a_version(path)
    with monkeypatch.context() as patch:
        patch.setattr("alembic.runtime.migration.HeadMaintainer.update_to_step", last_step)
        with pytest.raises(StorageError):
            await made(path)
    assert schema_of(path) == []

    await made(path)
    assert schema_of(path) != []


def test_the_head_that_opening_knows_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(config()).get_current_head() == HEAD


def test_opening_an_up_to_date_database_does_not_import_alembic(path: Path) -> None:
    program = f"""
import asyncio, sys
from batchwright.store.sql import SqlStore
async def main():
    for _ in range(2):
        await (await SqlStore.open("sqlite:///{path}")).close()
asyncio.run(main())
assert "alembic" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be one" * 500)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scrambled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for start in range(4_096, len(data), 4_096):
        data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE other (id INTEGER)")
    connection.close()


def removed_beside_its_log(path: Path) -> None:
    path.rename(path.with_name(path.name + "-wal"))


@pytest.mark.parametrize(
    "damage", [emptied, overwritten, cut, scrambled, foreign, removed_beside_its_log]
)
async def test_a_damaged_database_is_refused_and_left_as_it_is(
    path: Path, damage: Callable[[Path], None]
) -> None:
    await made(path)
    damage(path)
    before = path.read_bytes() if path.exists() else None

    with pytest.raises(Damaged):
        await opened(path)

    assert (path.read_bytes() if path.exists() else None) == before or damage is foreign
    with pytest.raises(Damaged):
        await opened(path)


async def test_a_half_made_database_is_made_anew(path: Path) -> None:
    path.parent.mkdir()
    path.with_name(path.name + ".new").write_bytes(b"half")

    await made(path)

    assert os.listdir(path.parent) == [path.name]


async def test_a_database_of_a_newer_version_is_refused(path: Path) -> None:
    await made(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()

    with pytest.raises(StorageError, match="9999") as refused:
        await opened(path)

    assert not isinstance(refused.value, Damaged)


async def test_damage_found_later_is_told_as_damage(path: Path) -> None:
    store = await opened(path)

    async def fail(connection: object) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(Damaged, match="malformed"):
        await store._database.transact(fail)
    await store.close()


async def test_a_full_disk_is_no_space_and_the_store_goes_on(path: Path) -> None:
    store = await opened(path)
    await store.create_batch("acme", a_batch("batch_1"))

    async def bound(connection, pages: int):  # type: ignore[no-untyped-def]
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    await store._database.transact(lambda connection: bound(connection, 1))
    with pytest.raises(NoSpace):
        await asyncio.gather(*(store.create_batch("acme", a_batch(f"b{n}")) for n in range(99)))
    await store._database.transact(lambda connection: bound(connection, 2**30))

    await store.create_batch("acme", a_batch("batch_last"))
    assert (await store.get_batch("acme", "batch_last")).id == "batch_last"
    await store.close()


async def test_an_error_s_text_holds_no_values(path: Path) -> None:
    store = await opened(path)
    await store.create_batch("acme", a_batch("batch_1"))

    with pytest.raises(StorageError) as refused:
        await store.create_batch("secret-tenant", a_batch("batch_1"))

    assert "secret-tenant" not in str(refused.value)
    await store.close()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://host/db", "sqlite://", "sqlite:///:memory:"]
)
async def test_another_kind_of_url_is_refused_with_what_is_expected(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///path"):
        await SqlStore.open(url)


async def test_a_password_in_a_wrong_url_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        await SqlStore.open("mysql://user:hunter2@host/db")

    assert "hunter2" not in str(refused.value)


async def test_a_network_file_system_is_refused_before_anything_is_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "network_file_system", lambda path, mountinfo: "nfs4")

    with pytest.raises(StorageError, match=r"network file system \(nfs4\)"):
        await opened(path)

    assert not path.parent.exists()
