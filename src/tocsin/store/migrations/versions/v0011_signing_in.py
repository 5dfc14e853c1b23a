"""What a user's list of sessions shows, when they last confirmed who they are, and the addresses they have signed in from."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("sessions", sa.Column("device", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("address", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("confirmed_at", sa.BigInteger(), nullable=True))
    op.add_column("users", sa.Column("known_addresses", sa.LargeBinary(), nullable=True))
