"""The store's forms, oldest first (Alembic)."""

HEAD = "0007"
"""The newest one, which `tables.py` describes."""
