"""Who has agreed to be mailed, and in which language users are written to. Every address that is registered counts as confirmed."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_GIVEN = "1"


def upgrade() -> None:
    op.add_column("users", sa.Column("language", sa.Text(), nullable=True))
    op.add_column("handlers", sa.Column("consent", sa.SmallInteger(), server_default=sa.text(_GIVEN), nullable=False))
    op.add_column("handlers", sa.Column("asked_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "mail_consents",
        sa.Column("user_id", _ID, autoincrement=False, nullable=False),
        sa.Column("mark", sa.LargeBinary(), nullable=False),
        sa.Column("given_at", sa.BigInteger(), nullable=True),
        sa.Column("withdrawn_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_mail_consents_user_id"),
        sa.PrimaryKeyConstraint("user_id", "mark", name="pk_mail_consents"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "consent_asks",
        sa.Column("mailbox", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("user_id", _ID, nullable=False),
        sa.PrimaryKeyConstraint("mailbox", "at", name="pk_consent_asks"),
        sqlite_with_rowid=False,
    )
