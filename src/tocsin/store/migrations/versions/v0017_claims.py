"""Claims say of which life of a delivery they are, and note starts that are no delivery's. Only PostgreSQL has claims."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0014"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.add_column("claims", sa.Column("replays", sa.ARRAY(sa.Integer()), nullable=True))
    op.add_column("claims", sa.Column("partition", sa.SmallInteger(), nullable=True))
    op.add_column("claims", sa.Column("paces", sa.LargeBinary(), nullable=True))
