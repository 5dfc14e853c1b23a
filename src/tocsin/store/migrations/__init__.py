"""The store's forms, oldest first (Alembic)."""

HEAD = "0005"
"""The newest one, which `tables.py` describes."""
