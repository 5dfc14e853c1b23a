"""Markdown -> a small tree -> one renderer per dialect."""
