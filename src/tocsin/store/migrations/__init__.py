"""The store's forms, oldest first (Alembic)."""

HEAD = "0004"
"""The newest one, which `tables.py` describes."""
