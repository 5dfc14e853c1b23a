"""The tables by which processes share a store; only PostgreSQL has them.

A *partition* is one of `ports.workers.PARTITIONS` shares of the handlers. The worker that owns it sends what is due in it.
"""

from sqlalchemy import ARRAY, BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, Table, Text

from tocsin.store.tables import Time

metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s"})

INDEXES = {"ix_deliveries_due": ["partition", "due_at"]}
"""Of `deliveries`, which SQLite does not have: on what is pending."""
SLOTS = "totals_slots"
"""The sequence that gives each process that writes a slot of its own in `totals`."""

# Every process of the service. `beat` goes up as long as it lives (`beat_at` is for people: no process goes by it); `seen`: the highest
# id of those that it knows of.
workers = Table(
    "workers",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("name", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("egress", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("beat_at", Time, nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("is_leaving", Boolean, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("load", Text, nullable=False),  # JSON, see `ports.workers.Load`
)

# `state`: what the last owner left for the next one. All rows are there from the beginning.
partitions = Table(
    "partitions",
    metadata,
    Column("partition", SmallInteger, primary_key=True, autoincrement=False),
    Column("owner", BigInteger),
    Column("is_crashed", Boolean, nullable=False),
    Column("state", LargeBinary),
)

# One row: how often owners have changed. Not a sequence, which would show a change before its commit.
ownership = Table("ownership", metadata, Column("version", BigInteger, nullable=False))

# What workers were about to send: for each delivery its handler, the attempt's number, when it was due and how often it had been replayed
# (NULL: not said, by a process of the version before). One row a batch. A start that is no delivery's has a row of its own, which
# has a partition and paces (see `ports.claims.Noted`).
claims = Table(
    "claims",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("worker", BigInteger, nullable=False),
    Column("at", Time, nullable=False),
    Column("ids", ARRAY(BigInteger), nullable=False),
    Column("handlers", ARRAY(BigInteger), nullable=False),
    Column("numbers", ARRAY(Integer), nullable=False),
    Column("due", ARRAY(BigInteger), nullable=False),
    Column("replays", ARRAY(Integer)),
    Column("partition", SmallInteger),
    Column("paces", LargeBinary),
    Index("ix_claims_at", "at"),
)

# What other processes may remember and must forget, in the order of the commits.
changes = Table(
    "changes",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("what", Text, nullable=False),
    Column("ref", BigInteger),
    Column("user_id", BigInteger),
    Column("at", Time, nullable=False),
)

# What providers asked for: until when nothing starts for a credential, whose handlers are in `partition`, or for a realm (NULL).
pauses = Table(
    "pauses",
    metadata,
    Column("key", Text, primary_key=True),
    Column("until", Time, nullable=False),
    Column("partition", SmallInteger),
    Index("ix_pauses_until", "until"),
)

# What one worker asks another; both texts are sealed.
asks = Table(
    "asks",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("worker", BigInteger, nullable=False),
    Column("asker", BigInteger, nullable=False),
    Column("question", LargeBinary, nullable=False),
    Column("answer", LargeBinary),
    Column("at", Time, nullable=False),
)
