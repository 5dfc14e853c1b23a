"""A handler whose provider throttles it for long, or again and again, is failing: the index of what is tried again has those deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

_RETRYING = "status = 0 AND (step > 0 OR throttles > 2 OR (throttles > 0 AND due_at - last_attempt_at > 60000000))"


def upgrade() -> None:
    op.drop_index("ix_deliveries_retrying", "deliveries")
    op.create_index(
        "ix_deliveries_retrying",
        "deliveries",
        ["handler_id", "last_attempt_at"],
        unique=False,
        sqlite_where=sa.text(_RETRYING),
        postgresql_where=sa.text(_RETRYING),
    )
