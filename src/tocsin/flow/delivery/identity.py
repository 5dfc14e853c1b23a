"""What a receiver knows a message by, so that it can drop a repeat: webhook-id, Message-ID and whatever else providers call it."""

from collections.abc import Sequence

from tocsin.ports.ids import Era


class Identities:
    """Same content, same id. The store's identity is in it, so that after a restore no id means another message than before."""

    def __init__(self, eras: Sequence[Era]) -> None:
        """`eras`: oldest first."""
        *past, present = eras
        self._first, self._prefix = present.first_delivery_id, f"msg_{present.store_id}_"
        self._past = [(era.first_delivery_id, f"msg_{era.store_id}_") for era in reversed(past)]

    def identity(self, delivery_id: int, shown: str = "") -> str:
        """`shown`: which of several states of its content the attempt shows; empty where there is but one."""
        prefix = self._prefix
        if delivery_id < self._first:
            prefix = next((prefix for first, prefix in self._past if delivery_id >= first), prefix)
        return f"{prefix}{delivery_id}_{shown}" if shown else f"{prefix}{delivery_id}"
