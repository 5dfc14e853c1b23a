"""The store's forms, oldest first (Alembic)."""

HEAD = "0010"
"""The newest one, which `tables.py` describes."""
