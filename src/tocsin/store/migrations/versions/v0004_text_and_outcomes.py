"""Whether a message is Markdown or plain text; and of an attempt the provider's id for the message and the verdict in words."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("notifications", sa.Column("is_text", sa.Boolean(), server_default=sa.text("FALSE"), nullable=False))
    op.add_column("attempts", sa.Column("provider_id", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("detail", sa.Text(), nullable=True))
