"""The first schema: files, uploads, batches with their segments, keys, idempotency keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("filename", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("sha256", sa.String),
        sa.Column("is_hidden", sa.Boolean, nullable=False),
        sa.CheckConstraint("size_bytes >= 0", name="files_size"),
    )
    op.create_index("files_list", "files", ["tenant", "created_at", "id"])
    op.create_index("files_expiry", "files", ["expires_at"])
    op.create_table(
        "extents",
        sa.Column("file_id", sa.String, sa.ForeignKey("files.id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.CheckConstraint('"offset" >= 0 AND length >= 0', name="extents_range"),
    )
    op.create_index("extents_key", "extents", ["key"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("purpose", sa.String, nullable=False),
        sa.Column("filename", sa.String, nullable=False),
        sa.Column("mime_type", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("file_id", sa.String, unique=True),
        sa.Column("file_ttl_s", sa.Integer),
        sa.CheckConstraint(
            "status IN ('pending', 'completed', 'cancelled')", name="uploads_status"
        ),
        sa.CheckConstraint("(status = 'completed') = (file_id IS NOT NULL)", name="uploads_file"),
    )
    op.create_index("uploads_pending", "uploads", ["status", "expires_at"])
    op.create_table(
        "parts",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("upload_id", sa.String, sa.ForeignKey("uploads.id"), nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("parts_upload", "parts", ["upload_id"])
    op.create_index("parts_key", "parts", ["key"])
    op.create_table(
        "batches",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("input_file_id", sa.String, nullable=False),
        sa.Column("completion_window", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("model", sa.String),
        sa.Column("errors", sa.JSON, nullable=False),
        sa.Column("output_file_id", sa.String),
        sa.Column("error_file_id", sa.String),
        sa.Column("in_progress_at", sa.Double),
        sa.Column("finalizing_at", sa.Double),
        sa.Column("completed_at", sa.Double),
        sa.Column("failed_at", sa.Double),
        sa.Column("expired_at", sa.Double),
        sa.Column("cancelling_at", sa.Double),
        sa.Column("cancelled_at", sa.Double),
        sa.Column("count_total", sa.BigInteger, nullable=False),
        sa.Column("count_completed", sa.BigInteger, nullable=False),
        sa.Column("count_failed", sa.BigInteger, nullable=False),
        sa.Column("closing", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON(none_as_null=True)),
        sa.Column("output_ttl_s", sa.Integer),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.CheckConstraint(
            "status IN ('validating', 'in_progress', 'finalizing', 'completed', 'failed',"
            " 'expired', 'cancelling', 'cancelled')",
            name="batches_status",
        ),
        sa.CheckConstraint(
            "(status = 'completed') = (completed_at IS NOT NULL)"
            " AND (status = 'failed') = (failed_at IS NOT NULL)"
            " AND (status = 'expired') = (expired_at IS NOT NULL)"
            " AND (status = 'cancelled') = (cancelled_at IS NOT NULL)",
            name="batches_end",
        ),
        sa.CheckConstraint(
            "count_completed >= 0 AND count_failed >= 0"
            " AND count_completed + count_failed <= count_total",
            name="batches_counts",
        ),
        sa.CheckConstraint("epoch >= 0", name="batches_epoch"),
    )
    op.create_index("batches_list", "batches", ["tenant", "created_at", "id"])
    op.create_index("batches_status_index", "batches", ["status"])
    op.create_index("batches_input", "batches", ["input_file_id"])
    op.create_table(
        "segments",
        sa.Column("batch_id", sa.String, sa.ForeignKey("batches.id"), primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("output_bytes", sa.BigInteger),
        sa.Column("error_bytes", sa.BigInteger),
        sa.Column("account_bytes", sa.BigInteger),
        sa.CheckConstraint(
            "(output_bytes IS NULL) = (error_bytes IS NULL)"
            " AND (output_bytes IS NULL) = (account_bytes IS NULL)",
            name="segments_lengths",
        ),
    )
    op.create_table(
        "segment_blobs",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("batch_id", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.CheckConstraint(
            "kind IN ('output', 'error', 'account', 'slots')", name="segment_blobs_kind"
        ),
        sa.ForeignKeyConstraint(["batch_id", "epoch"], ["segments.batch_id", "segments.epoch"]),
    )
    op.create_index("segment_blobs_segment", "segment_blobs", ["batch_id", "epoch"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
        sa.CheckConstraint("role IN ('admin', 'user')", name="keys_role"),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("fingerprint", sa.String, nullable=False),
        sa.Column("object_id", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.CheckConstraint("kind IN ('file', 'batch')", name="idempotency_kind"),
    )
    op.create_index("idempotency_age", "idempotency", ["created_at"])
    op.create_index("idempotency_object", "idempotency", ["object_id"])
