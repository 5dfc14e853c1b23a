"""What was throttled need not be found by rows any more: pauses are kept."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_deliveries_throttled", "deliveries")
