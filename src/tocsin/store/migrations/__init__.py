"""The store's forms, oldest first (Alembic)."""

HEAD = "0003"
"""The newest one, which `tables.py` describes."""
