"""Pauses that providers asked for are kept for the process that sends next. Only PostgreSQL has other processes."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.create_table(
        "pauses",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("partition", sa.SmallInteger(), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_pauses"),
    )
    op.create_index("ix_pauses_until", "pauses", ["until"])
