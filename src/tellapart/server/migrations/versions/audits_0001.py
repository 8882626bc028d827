"""The table of audits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audits",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("form", sa.String(36), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("asked_by", sa.String(100)),
        sa.Column("picture", sa.String(32), nullable=False),
        sa.Column("file_name", sa.String(255)),
        sa.Column("thumbnail", sa.LargeBinary),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("model_version", sa.String(16), nullable=False),
        sa.Column("declared", sa.String(255), nullable=False),
        sa.Column("verdict", sa.String(8), nullable=False),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.Column("label", sa.String(255)),
        sa.Column("confidence", sa.Float),
        sa.Column("candidates", sa.JSON, nullable=False),
        sa.Column("decision", sa.String(255)),
        sa.Column("decided_by", sa.String(100)),
        sa.Column("decided_at", sa.DateTime(timezone=True)),
    )
    op.create_index("audits_at", "audits", ["at"])
    op.create_index("audits_picture", "audits", ["picture"])
