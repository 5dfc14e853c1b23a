"""The store's forms, oldest first (Alembic)."""

HEAD = "0006"
"""The newest one, which `tables.py` describes."""
