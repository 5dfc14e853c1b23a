"""Handlers: registering, testing, previewing them, and telling how they fare."""
