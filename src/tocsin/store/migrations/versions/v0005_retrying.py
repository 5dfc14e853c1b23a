"""What is tried again can be found by its handler, so that a handler's state is told from what it last answered."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_RETRYING = "status = 0 AND step > 0"


def upgrade() -> None:
    op.create_index(
        "ix_deliveries_retrying",
        "deliveries",
        ["handler_id", "last_attempt_at"],
        unique=False,
        sqlite_where=sa.text(_RETRYING),
        postgresql_where=sa.text(_RETRYING),
    )
