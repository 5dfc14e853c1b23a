"""How handlers fare: failures in a row, what happened to them, and their deliveries by the hour."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("handlers", sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("handlers", sa.Column("failing_since", sa.BigInteger(), nullable=True))
    op.create_table(
        "handler_events",
        sa.Column("id", _ID, nullable=False),
        sa.Column("handler_id", _ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["handler_id"], ["handlers.id"], name=op.f("fk_handler_events_handler_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_handler_events")),
    )
    op.create_index("ix_handler_events_handler_id_id", "handler_events", ["handler_id", "id"], unique=False)
    op.create_table(
        "handler_hours",
        sa.Column("handler_id", _ID, autoincrement=False, nullable=False),
        sa.Column("hour", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("expired", sa.Integer(), nullable=False),
        sa.Column("latencies", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["handler_id"], ["handlers.id"], name=op.f("fk_handler_hours_handler_id")),
        sa.PrimaryKeyConstraint("handler_id", "hour", name=op.f("pk_handler_hours")),
        sqlite_with_rowid=False,
    )
