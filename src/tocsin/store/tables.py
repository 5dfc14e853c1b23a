"""The tables. Times are microseconds since 1970 in UTC; a status is the integer of `model.Status`."""

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    event,
    text,
)

from tocsin.clock import SECOND
from tocsin.model import Status
from tocsin.ports.consents import Consent

# Conditions on a delivery's status, each once. They are literal: with bound values SQLite cannot use the partial indexes.
IS_PENDING = f"status = {Status.PENDING:d}"
IS_NOT_DELIVERED = f"status NOT IN ({Status.PENDING:d}, {Status.DELIVERED:d})"
# A throttle uses up no step, but a long one, or several in a row, means that the handler fails.
IS_RETRYING = f"{IS_PENDING} AND (step > 0 OR throttles > 2 OR (throttles > 0 AND due_at - last_attempt_at > {60 * SECOND}))"
IS_CRITICAL = f"{IS_PENDING} AND is_critical = 1"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# The conditions of indexes are named for SQLite only: naming those for PostgreSQL here, as the migrations do, would load that dialect
# into every process, 2 MB. So a new store on it is to be made by the migrations.

# SQLite's AUTOINCREMENT needs INTEGER; elsewhere ids are 64 bits wide. It keeps a deleted highest id from being handed out again.
Id = BigInteger().with_variant(Integer, "sqlite")
Time = BigInteger


meta = Table("meta", metadata, Column("name", Text, primary_key=True), Column("value", LargeBinary, nullable=False))

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("email", Text, nullable=False, unique=True),
    Column("password_hash", Text),
    Column("sign_in_hash", LargeBinary),
    Column("sign_in_until", Time),
    Column("is_admin", Boolean, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("disabled_at", Time),
    Column("time_zone", Text),  # a name of the tz database; UTC where there is none
    Column("known_addresses", LargeBinary),  # marks of those they have signed in from, the latest first
    Column("language", Text),  # of what the service writes to them
    sqlite_autoincrement=True,
)

keys = Table(
    "keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("shown", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("last_used_at", Time),
    Column("revoked_at", Time),
    Column("expires_at", Time),
    sqlite_autoincrement=True,
)

# Who is signed in to the pages. Only a hash of what the browser holds is kept.
sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False, index=True),
    Column("created_at", Time, nullable=False),
    Column("seen_at", Time, nullable=False),
    Column("by", Text),  # `ports.people.By`; none in sessions of older versions
    Column("device", Text),
    Column("address", Text),
    Column("confirmed_at", Time),
    sqlite_with_rowid=False,
)

# A second factor (RFC 6238): its secret, encrypted, and the latest time step whose code was used.
second_factors = Table(
    "second_factors",
    metadata,
    Column("user_id", Id, ForeignKey("users.id"), primary_key=True, autoincrement=False),
    Column("secret", LargeBinary, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("created_at", Time, nullable=False),
    sqlite_with_rowid=False,
)

# What lets somebody in who has lost it. Each goes with its use.
recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("user_id", Id, ForeignKey("users.id"), primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, primary_key=True),
    sqlite_with_rowid=False,
)

# Who a user is at an OpenID provider: its own name for them, which no e-mail address can replace.
identities = Table(
    "identities",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False, index=True),
    Column("created_at", Time, nullable=False),
    sqlite_with_rowid=False,
)

# Hashes of what works once, until it would be too old anyhow.
spent = Table(
    "spent",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("until", Time, nullable=False, index=True),
    sqlite_with_rowid=False,
)

handlers = Table(
    "handlers",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False),
    Column("type", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("settings", LargeBinary),
    Column("secret", LargeBinary),
    Column("is_enabled", Boolean, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("last_delivered_at", Time),
    Column("disabled_reason", Text),
    Column("version", Integer, nullable=False),
    Column("deleted_at", Time),
    # Deliveries that failed by the handler's own fault since it last took one, and when the first of them did.
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("failing_since", Time),
    Column("partition", SmallInteger),  # None: not known yet; see `shared_tables.py`
    Column("consent", SmallInteger, nullable=False, server_default=text(f"{Consent.GIVEN:d}")),
    Column("asked_at", Time),  # when the link to confirm its address was first mailed
    Index("ix_handlers_user_id_live", "user_id", "id", sqlite_where=text("deleted_at IS NULL")),
    sqlite_autoincrement=True,
)

# Addresses that a user may mail to, since somebody there has agreed. Only marks of them are kept.
mail_consents = Table(
    "mail_consents",
    metadata,
    Column("user_id", Id, ForeignKey("users.id"), primary_key=True, autoincrement=False),
    Column("mark", LargeBinary, primary_key=True),
    Column("given_at", Time),
    Column("withdrawn_at", Time),
    sqlite_with_rowid=False,
)

# When somebody was asked to agree, for a day: `mailbox` is the mark of the address without what may follow a plus sign.
consent_asks = Table(
    "consent_asks",
    metadata,
    Column("mailbox", LargeBinary, primary_key=True),
    Column("at", Time, primary_key=True, autoincrement=False),
    Column("user_id", Id, nullable=False),
    sqlite_with_rowid=False,
)

# How much users have used of their quotas: `ports.usage.What`, by day since 1970.
usage = Table(
    "usage",
    metadata,
    Column("user_id", Id, primary_key=True, autoincrement=False),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("what", SmallInteger, primary_key=True, autoincrement=False),
    Column("mark", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Index("ix_usage_day", "day"),
    sqlite_with_rowid=False,
)

# What happened to a handler beside its deliveries, the last few of it.
handler_events = Table(
    "handler_events",
    metadata,
    Column("id", Id, primary_key=True),
    Column("handler_id", Id, ForeignKey("handlers.id"), nullable=False),
    Column("at", Time, nullable=False),
    Column("what", Text, nullable=False),
    Column("reason", Text),
    Column("detail", Text, nullable=False),
    Index("ix_handler_events_handler_id_id", "handler_id", "id"),
)

# What became of a handler's deliveries, hour by hour: charts and rates need no look at the deliveries themselves.
handler_hours = Table(
    "handler_hours",
    metadata,
    Column("handler_id", Id, ForeignKey("handlers.id"), primary_key=True, autoincrement=False),
    Column("hour", Integer, primary_key=True, autoincrement=False),  # since 1970
    Column("delivered", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("expired", Integer, nullable=False),
    Column("latencies", Text, nullable=False),  # a JSON array, see `flow.delivery.tally`
    sqlite_with_rowid=False,
)

# The message lives apart from the small, hot delivery rows. The foreign keys of these and of all that refers to them are kept by SQLite
# only: PostgreSQL would take a third of its time to look at them, row by row (migration 0010).
notifications = Table(
    "notifications",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("send_at", Time),
    Column("expires_at", Time),
    Column("kind", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("fields", Text, nullable=False),
    Column("is_text", Boolean, nullable=False, server_default=text("FALSE")),  # else Markdown
    Index("ix_notifications_user_id_id", "user_id", "id"),
    sqlite_autoincrement=True,
)

# Lists are read status by status and merged, so one index serves them filtered by status and unfiltered.
# The partial index on what is pending makes an idle poll cheap however much history there is.
deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True),
    Column("notification_id", Id, ForeignKey("notifications.id"), nullable=False, index=True),
    Column("handler_id", Id, ForeignKey("handlers.id"), nullable=False),
    Column("user_id", Id, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("is_critical", Boolean, nullable=False),
    Column("due_at", Time, nullable=False),
    Column("first_due_at", Time, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("attempt_count", Integer, nullable=False, server_default=text("0")),
    Column("step", Integer, nullable=False, server_default=text("0")),
    Column("throttles", Integer, nullable=False, server_default=text("0")),
    Column("last_attempt_at", Time),
    Column("late", Boolean),
    Column("may_have_arrived", Boolean, nullable=False, server_default=text("FALSE")),
    Column("part", Integer, nullable=False, server_default=text("0")),
    Column("replays", Integer, nullable=False, server_default=text("0")),
    Column("last_reason", Text),
    Column("last_error", Text),
    Column("partition", SmallInteger, nullable=False, server_default=text("0")),  # its handler's, where processes share the store
    # The handler at its end: the deliveries of one handler are found in the index alone. An index that begins with the handler
    # would have every new row on a page of its own, which costs more than all the rest of the row.
    Index("ix_deliveries_user_id_status_id", "user_id", "status", "id", "handler_id"),
    Index(
        "ix_deliveries_not_delivered",
        "handler_id",
        "status",
        "id",
        sqlite_where=text(IS_NOT_DELIVERED),
    ),
    Index(
        "ix_deliveries_pending",
        "handler_id",
        "due_at",
        sqlite_where=text(IS_PENDING),
    ),
    Index(
        "ix_deliveries_pending_critical",
        "handler_id",
        "is_critical",  # the same in every row, but it makes this index the better one for who asks for critical ones
        "due_at",
        sqlite_where=text(IS_CRITICAL),
    ),
    # What is tried again after a failure: few rows, and what has arrived is never among them.
    Index(
        "ix_deliveries_retrying",
        "handler_id",
        "last_attempt_at",
        sqlite_where=text(IS_RETRYING),
    ),
    sqlite_autoincrement=True,
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", Id, ForeignKey("deliveries.id"), primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Time, nullable=False),
    Column("duration_us", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status_code", Integer),
    Column("response", Text),
    Column("next_at", Time),
    Column("provider_id", Text),
    Column("detail", Text),
    sqlite_with_rowid=False,
)

# How deliveries had ended when they were sent again by hand.
replays = Table(
    "replays",
    metadata,
    Column("delivery_id", Id, ForeignKey("deliveries.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Time, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("reason", Text),
    Column("ended_at", Time, nullable=False),
    sqlite_with_rowid=False,
)

# Totals that lists show exactly however long they are: `what` is a delivery status, or one of the two below. Each process that writes has
# rows of its own (`slot`), so that none waits for another's commit; a total is the sum of them.
totals = Table(
    "totals",
    metadata,
    Column("user_id", Id, primary_key=True, autoincrement=False),
    Column("what", SmallInteger, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
TOTAL_NOTIFICATIONS = 100
TOTAL_HANDLERS = 101

idempotency = Table(
    "idempotency",
    metadata,
    Column("user_id", Id, primary_key=True, autoincrement=False),
    Column("path", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("answer", Text, nullable=False),
    Column("created_at", Time, nullable=False, index=True),
    sqlite_with_rowid=False,
)

# What went out under a credential whose provider counts posts or refuses a repeated text.
posts = Table(
    "posts",
    metadata,
    Column("key", Text, primary_key=True),
    Column("delivery_id", Id, primary_key=True, autoincrement=False),
    Column("text_hash", LargeBinary, nullable=False),
    Column("at", Time, nullable=False),
    Index("ix_posts_key_at", "key", "at"),
    sqlite_with_rowid=False,
)

# Who did what. Without foreign keys: it outlives the users, handlers and keys that it names.
audit = Table(
    "audit",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", Time, nullable=False, index=True),
    Column("via", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("user_id", Id),
    Column("who", Text, nullable=False),
    Column("key_id", Id),
    Column("address", Text, nullable=False),
    Column("owner_id", Id),
    Column("whose", Text, nullable=False),
    Column("ref", BigInteger),
    Column("name", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_audit_user_id_id", "user_id", "id"),
    Index("ix_audit_owner_id_id", "owner_id", "id"),
    sqlite_autoincrement=True,
)

# Rows of the audit log do not change, and none goes within a day: retention takes older ones only.
APPEND_ONLY = (
    "CREATE TRIGGER audit_keeps_its_rows BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'rows of the audit log do not change'); END",
    "CREATE TRIGGER audit_keeps_a_day BEFORE DELETE ON audit"
    " WHEN OLD.at > (CAST(strftime('%s', 'now') AS INTEGER) - 86400) * 1000000"
    " BEGIN SELECT RAISE(ABORT, 'rows of the audit log stay for a day'); END",
)
for trigger in APPEND_ONLY:
    event.listen(audit, "after_create", DDL(trigger.replace("%", "%%")).execute_if(dialect="sqlite"))
