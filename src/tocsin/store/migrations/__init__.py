"""The store's forms, oldest first (Alembic)."""

HEAD = "0009"
"""The newest one, which `tables.py` describes."""
