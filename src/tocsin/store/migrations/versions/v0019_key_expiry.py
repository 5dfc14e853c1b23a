"""API keys may expire."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("keys", sa.Column("expires_at", sa.BigInteger(), nullable=True))
