"""Bring an older database up to date."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection


def config() -> Config:
    """Alembic's configuration: there is no file, only the folder of the migrations."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return made


def upgrade(connection: Connection) -> None:
    """Run what is missing in the connection's transaction: a kill leaves the older schema."""
    made = config()
    made.attributes["connection"] = connection
    command.upgrade(made, "head")
