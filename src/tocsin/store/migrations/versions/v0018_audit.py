"""The audit log: who did what, to what, from where and when."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER audit_keeps_its_rows BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'rows of the audit log do not change'); END",
        "CREATE TRIGGER audit_keeps_a_day BEFORE DELETE ON audit"
        " WHEN OLD.at > (CAST(strftime('%s', 'now') AS INTEGER) - 86400) * 1000000"
        " BEGIN SELECT RAISE(ABORT, 'rows of the audit log stay for a day'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION audit_stays() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF TG_OP = 'DELETE' AND OLD.at <= (extract(epoch FROM now()) - 86400) * 1000000 THEN RETURN OLD; END IF;"
        " RAISE EXCEPTION 'rows of the audit log do not change, and stay for a day'; END $$",
        "CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_stays()",
    ),
}


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("via", sa.Text(), nullable=False),
        sa.Column("act", sa.Text(), nullable=False),
        sa.Column("user_id", _ID, nullable=True),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("key_id", _ID, nullable=True),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("owner_id", _ID, nullable=True),
        sa.Column("whose", sa.Text(), nullable=False),
        sa.Column("ref", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at", "audit", ["at"], unique=False)
    op.create_index("ix_audit_user_id_id", "audit", ["user_id", "id"], unique=False)
    op.create_index("ix_audit_owner_id_id", "audit", ["owner_id", "id"], unique=False)
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
