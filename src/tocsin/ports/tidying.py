"""What keeps a store small: old rows go in steps, each told how many rows it may touch, so that none holds the writer for long."""

from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Struct

from tocsin.clock import Micros

Old: TypeAlias = Literal[
    "notifications", "idempotency", "posts", "consent_asks", "handlers", "totals", "usage", "audit", "claims", "changes", "asks"
]
"""Kinds of rows that go: notifications with their deliveries and attempts, idempotency keys, posts and questions that counted for a day,
statistics of handlers and the rest of deleted ones, entries of the audit log; totals are only folded together. The last three are there
where processes share a store."""
Place: TypeAlias = tuple[Any, ...]
START: Place = ()


class Swept(Struct, frozen=True):
    """What a step did: how many `rows` went, and `after` what to go on (None: nothing is left to look at).

    `at`: when the last notification that may go was accepted. `seconds`: how long the step took, without its commit.
    """

    rows: int
    after: Place | None
    at: Micros | None = None
    seconds: float = 0.0


class Tidying(Protocol):
    async def sweep(self, what: Old, before: Micros, rows: int, after: Place) -> Swept:
        """One step. `before`: from then on rows are kept. `after`: where the step before it ended, START at first."""
        ...

    async def fold_log(self) -> None:
        """Fold committed pages into the store, beside the writer, so that no single commit has much of that to do."""
        ...
