"""The store's forms, oldest first (Alembic)."""

HEAD = "0008"
"""The newest one, which `tables.py` describes."""
