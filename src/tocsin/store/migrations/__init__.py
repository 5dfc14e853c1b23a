"""The store's forms, oldest first (Alembic)."""
