"""What waits for a reviewer, and how many there are of each verdict, is found without a scan."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    open_ = sa.text("decided_at IS NULL AND verdict != 'match'")
    op.create_index(
        "audits_open", "audits", ["at", "id"], sqlite_where=open_, postgresql_where=open_
    )
    op.create_index("audits_verdict", "audits", ["verdict"])
