"""The schema's history, one file per change in `versions/`. Revisions are numbers, `0001` on."""

from __future__ import annotations

HEAD = "0002"
"""The newest revision; known here so that an up-to-date database opens without Alembic."""
