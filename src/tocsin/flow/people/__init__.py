"""People: who may do what, by key or at the pages."""
