"""The store's forms, oldest first (Alembic)."""

HEAD = "0001"
"""The newest one, which `tables.py` describes."""
