"""The store's forms, oldest first (Alembic)."""

HEAD = "0002"
"""The newest one, which `tables.py` describes."""
