"""The store's forms, oldest first (Alembic)."""

HEAD = "0008"
"""The newest one, which `tables.py` describes."""

SERVES = "0008"
"""The newest form of the version before this one, whose processes go on working while a database is shared: a migration only adds what
they do without, and what nobody needs any more goes a version later."""
