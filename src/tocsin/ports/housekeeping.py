"""What keeps a store small and its ids unique."""

from typing import Any

from msgspec import Struct

from tocsin.clock import Micros


class Swept(Struct, frozen=True):
    """What a step of `store.tidying` did: how many `rows` were deleted, and `after` which to continue (None: nothing is left to look at).

    `at`: when the last notification that may go was accepted. `seconds`: how long the step took, without its commit.
    """

    rows: int
    after: tuple[Any, ...] | None
    at: Micros | None = None
    seconds: float = 0.0


class Era(Struct, frozen=True, array_like=True):
    first_delivery_id: int
    store_id: str
