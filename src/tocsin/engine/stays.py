"""What goes on in a partition beside its deliveries, for as long as these are sent from here: test sends take their turn among them."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from tocsin.engine.holdings import Holdings


class Stays:
    """Those that are told when it is over, and those that wait for a change of owners."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._over: dict[int, dict[object, Callable[[], None]]] = {}
        self._turn = asyncio.Event()

    def begin(self, partition: int, over: Callable[[], None]) -> Callable[[], None] | None:
        """See `tocsin.ports.workers.Partitions.stay`."""
        if partition not in self._holdings.live:
            return None
        token = object()
        self._over.setdefault(partition, {})[token] = over

        def end() -> None:
            self._over.get(partition, {}).pop(token, None)

        return end

    def end(self, partitions: Iterable[int]) -> None:
        """They are not sent for from here any more. What was begun in them ends now, or with the answer that it waits for."""
        for partition in partitions:
            for over in list(self._over.get(partition, {}).values()):
                over()

    def changed(self) -> None:
        """Something has got another owner."""
        self._turn.set()
        self._turn = asyncio.Event()

    async def change(self, seconds: float) -> None:
        """Until something has got another owner; no longer than that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._turn.wait()
