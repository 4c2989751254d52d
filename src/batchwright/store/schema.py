"""The tables. `CHECK`s repeat the invariants of the domain: a bug of ours is refused, not stored.

The migrations in `migrations/` build the same tables step by step; a test compares the two.
Points in time are Unix seconds.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

METADATA = MetaData()

files = Table(
    "files",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("filename", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("sha256", String),
    Column("is_hidden", Boolean, nullable=False),  # deleted or expired; bytes may still be in use
    CheckConstraint("size_bytes >= 0", name="files_size"),
    Index("files_list", "tenant", "created_at", "id"),
    Index("files_expiry", "expires_at"),
)

extents = Table(
    "extents",
    METADATA,
    Column("file_id", String, ForeignKey("files.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("key", String, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    CheckConstraint('"offset" >= 0 AND length >= 0', name="extents_range"),
    Index("extents_key", "key"),
)

uploads = Table(
    "uploads",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("filename", String, nullable=False),
    Column("mime_type", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("status", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("file_id", String, unique=True),
    Column("file_ttl_s", Integer),
    CheckConstraint("status IN ('pending', 'completed', 'cancelled')", name="uploads_status"),
    CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name="uploads_file"),
    Index("uploads_pending", "status", "expires_at"),
)

parts = Table(
    "parts",
    METADATA,
    Column("id", String, primary_key=True),
    Column("upload_id", String, ForeignKey("uploads.id"), nullable=False),
    Column("key", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("parts_upload", "upload_id"),
    Index("parts_key", "key"),
)

batches = Table(
    "batches",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("input_file_id", String, nullable=False),  # may name nothing: the batch then fails
    Column("completion_window", String, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("status", String, nullable=False),
    Column("model", String),
    Column("errors", JSON, nullable=False),
    Column("output_file_id", String),
    Column("error_file_id", String),
    Column("in_progress_at", Double),
    Column("finalizing_at", Double),
    Column("completed_at", Double),
    Column("failed_at", Double),
    Column("expired_at", Double),
    Column("cancelling_at", Double),
    Column("cancelled_at", Double),
    Column("count_total", BigInteger, nullable=False),
    Column("count_completed", BigInteger, nullable=False),
    Column("count_failed", BigInteger, nullable=False),
    Column("closing", JSON, nullable=False),
    Column("metadata", JSON(none_as_null=True)),
    Column("output_ttl_s", Integer),
    Column("options", JSON, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column(
        "priority",
        String,
        CheckConstraint("priority IN ('low', 'normal', 'high')", name="batches_priority"),
        nullable=False,
        server_default="normal",
    ),
    Column(
        "paused_at",
        Double,
        CheckConstraint(
            "paused_at IS NULL OR status IN ('validating', 'in_progress')", name="batches_pause"
        ),
    ),
    CheckConstraint(
        "status IN ('validating', 'in_progress', 'finalizing', 'completed', 'failed', 'expired',"
        " 'cancelling', 'cancelled')",
        name="batches_status",
    ),
    CheckConstraint(
        "(status = 'completed') = (completed_at IS NOT NULL)"
        " AND (status = 'failed') = (failed_at IS NOT NULL)"
        " AND (status = 'expired') = (expired_at IS NOT NULL)"
        " AND (status = 'cancelled') = (cancelled_at IS NOT NULL)",
        name="batches_end",
    ),
    CheckConstraint(
        "count_completed >= 0 AND count_failed >= 0"
        " AND count_completed + count_failed <= count_total",
        name="batches_counts",
    ),
    CheckConstraint("epoch >= 0", name="batches_epoch"),
    Index("batches_list", "tenant", "created_at", "id"),
    Index("batches_status_index", "status"),
    Index("batches_input", "input_file_id"),
)

segments = Table(
    "segments",
    METADATA,
    Column("batch_id", String, ForeignKey("batches.id"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("output_bytes", BigInteger),  # all three null while the segment is written
    Column("error_bytes", BigInteger),
    Column("account_bytes", BigInteger),
    CheckConstraint(
        "(output_bytes IS NULL) = (error_bytes IS NULL)"
        " AND (output_bytes IS NULL) = (account_bytes IS NULL)",
        name="segments_lengths",
    ),
)

segment_blobs = Table(
    "segment_blobs",
    METADATA,
    Column("key", String, primary_key=True),
    Column("batch_id", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("kind", String, nullable=False),
    CheckConstraint("kind IN ('output', 'error', 'account', 'slots')", name="segment_blobs_kind"),
    ForeignKeyConstraint(["batch_id", "epoch"], ["segments.batch_id", "segments.epoch"]),
    Index("segment_blobs_segment", "batch_id", "epoch"),
)

keys = Table(
    "keys",
    METADATA,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("role", String, nullable=False),
    Column("name", String, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    CheckConstraint("role IN ('admin', 'user')", name="keys_role"),
)

idempotency = Table(
    "idempotency",
    METADATA,
    Column("tenant", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("object_id", String, nullable=False),
    Column("created_at", Double, nullable=False),
    CheckConstraint("kind IN ('file', 'batch')", name="idempotency_kind"),
    Index("idempotency_age", "created_at"),
    Index("idempotency_object", "object_id"),
)

version = Table(
    "alembic_version",
    MetaData(),  # Alembic's own table: not among those that a migration is compared with
    Column("version_num", String(32), primary_key=True),
)
