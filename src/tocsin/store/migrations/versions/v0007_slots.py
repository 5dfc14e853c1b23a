"""Totals have rows for each process that writes."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_FOLDED = 0


def upgrade() -> None:
    op.execute("CREATE TEMPORARY TABLE totals_before AS SELECT user_id, what, n FROM totals")
    op.drop_table("totals")
    op.create_table(
        "totals",
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("what", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "what", "slot", name=op.f("pk_totals")),
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO totals (user_id, what, slot, n) SELECT user_id, what, {_FOLDED}, n FROM totals_before")
    op.execute("DROP TABLE totals_before")
