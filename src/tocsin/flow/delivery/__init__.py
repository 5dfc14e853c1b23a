"""Delivering: a due row becomes an attempt, and its outcome a row again."""
