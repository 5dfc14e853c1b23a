"""Which share of the handlers each belongs to; on PostgreSQL also the tables of processes that share the store."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_PARTITIONS = 1024
_FIRST_SLOT = 10  # of totals: those below are the folded one, the single service's and the commands'


def upgrade() -> None:
    op.add_column("handlers", sa.Column("partition", sa.SmallInteger(), nullable=True))
    op.add_column("deliveries", sa.Column("partition", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))
    if op.get_bind().dialect.name != "postgresql":
        return
    op.create_index("ix_deliveries_due", "deliveries", ["partition", "due_at"], unique=False, postgresql_where=sa.text("status = 0"))
    throttled = sa.text("status = 0 AND throttles > 0")
    op.create_index("ix_deliveries_throttled", "deliveries", ["partition"], unique=False, postgresql_where=throttled)
    _workers()
    _journals()
    op.execute(f"CREATE SEQUENCE totals_slots AS integer START {_FIRST_SLOT}")


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("egress", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("is_leaving", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("load", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "partitions",
        sa.Column("partition", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.BigInteger(), nullable=True),
        sa.Column("is_crashed", sa.Boolean(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("partition", name="pk_partitions"),
    )
    op.execute(f"INSERT INTO partitions (partition, is_crashed) SELECT n, FALSE FROM generate_series(0, {_PARTITIONS - 1}) AS n")
    op.create_table("ownership", sa.Column("version", sa.BigInteger(), nullable=False))
    op.execute("INSERT INTO ownership (version) VALUES (1)")
    for table in ("workers", "partitions", "ownership"):  # rows that change all the time: room for the next version beside each
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 40)")


def _journals() -> None:
    op.create_table(
        "claims",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("ids", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("handlers", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("numbers", sa.ARRAY(sa.Integer()), nullable=False),
        sa.Column("due", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_claims"),
    )
    op.create_index("ix_claims_at", "claims", ["at"], unique=False)
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("ref", sa.BigInteger(), nullable=True),
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
    )
    op.create_table(
        "asks",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("worker", sa.BigInteger(), nullable=False),
        sa.Column("asker", sa.BigInteger(), nullable=False),
        sa.Column("question", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_asks"),
    )
