"""`python -m bench.many`: what several processes on one PostgreSQL database cost and how quick they are."""
