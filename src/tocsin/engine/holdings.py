"""Which partitions this worker has, and how far it is with each.

A partition is *owned* once its row says so, *live* once its past is known and it may be sent for, and *complete* once the store has been
swept for it since this worker is alone, so that fresh deliveries may be handed over in memory. It is *leaving* while nothing more is
started for it and its last attempts end.
"""

from collections.abc import Collection, Iterable

from tocsin.ports.workers import Taken


class Holdings:
    """Changed by the shared engine only."""

    def __init__(self) -> None:
        self.live: set[int] = set()
        self.complete: set[int] = set()
        self.unswept: set[int] = set()
        """Those of them in which all that is due has still to be found."""
        self.taken: dict[int, Taken] = {}
        """Those whose past is not known yet."""
        self.leaving: dict[int, set[int]] = {}
        """With the handlers of each that have something under way."""
        self.homes: dict[int, int] = {}
        """The partition of each handler that was woken here."""
        self.life = object()
        """Another one since everything was lost."""

    @property
    def owned(self) -> set[int]:
        """Those that are to stay."""
        return self.live | self.taken.keys()

    def begin(self, partition: int) -> None:
        """It may be sent for."""
        if self.taken.pop(partition, None) is not None:
            self.live.add(partition)
            self.unswept.add(partition)

    def owns(self, handler_id: int) -> bool:
        return self.homes.get(handler_id, -1) in self.live

    def handlers_of(self, partitions: Collection[int]) -> list[int]:
        return [handler_id for handler_id, home in self.homes.items() if home in partitions]

    def leave(self, partitions: Collection[int], busy: Iterable[int]) -> None:
        """Nothing more is started for these; of the `busy` handlers something is under way."""
        self.live.difference_update(partitions)
        self.complete.difference_update(partitions)
        self.leaving |= {partition: set() for partition in partitions}
        for handler_id in busy:
            self.leaving[self.homes[handler_id]].add(handler_id)

    def settled(self, handler_id: int) -> bool:
        """Nothing of this handler is under way any more; whether its partition has become ready to be handed on."""
        busy = self.leaving.get(self.homes.get(handler_id, -1))
        if not busy:
            return False
        busy.discard(handler_id)
        return not busy

    @property
    def idle(self) -> list[int]:
        """Those that are leaving and have nothing under way."""
        return [partition for partition, busy in self.leaving.items() if not busy]

    def gone(self, partitions: Iterable[int]) -> None:
        """Others may take them."""
        gone = {partition for partition in partitions if self.leaving.pop(partition, None) is not None}
        self.homes = {handler_id: home for handler_id, home in self.homes.items() if home not in gone}

    def forget_idle(self, keeps: Collection[int]) -> None:
        """Handlers without work are woken again when there is some."""
        self.homes = {handler_id: home for handler_id, home in self.homes.items() if handler_id in keeps}

    def lose(self, partitions: Collection[int]) -> None:
        """They belong to others, without having been handed on."""
        for partition in partitions:
            self.taken.pop(partition, None)
        self.leave(self.live.intersection(partitions), ())
        self.gone(partitions)

    def lost(self) -> None:
        """Everything belongs to others now."""
        self.__init__()
