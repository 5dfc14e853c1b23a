"""The processes that share one store, and which of them owns which partitions of the handlers.

A worker is dead once its beat has stood still for too long on the clock of whoever watches; no clocks of two machines are compared.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros

PARTITIONS = 1024


class Introduction(Struct, frozen=True):
    """What a process says of itself when it joins. `egress`: the name of the address that its requests leave from."""

    name: str
    roles: str
    address: str
    egress: str
    version: str


class Load(Struct, frozen=True):
    """What a worker says of its work. `oldest_due`: since when its longest waiting delivery is due. `clock_ahead`: by how much its own
    clock is ahead of the store's."""

    in_memory: int = 0
    in_flight: int = 0
    oldest_due: Micros | None = None
    clock_ahead: Micros = 0


class Member(Struct, frozen=True):
    """A worker. `seen`: the highest id of those that it knows of."""

    id: int
    introduction: Introduction
    beat: int
    seen: int
    is_leaving: bool
    started_at: Micros
    load: Load


class Beat(Struct, frozen=True):
    """What a beat shows: all workers, the version of the owners, the newest change, and by how much the store's clock is ahead of ours."""

    members: Sequence[Member]
    owners_version: int
    newest_change: int
    ahead: Micros


class Taken(Struct, frozen=True):
    """A partition that is ours now. `is_crashed`: its last owner died; otherwise `state` is what that owner released it with."""

    partition: int
    is_crashed: bool
    state: bytes | None


class Owners(Struct, frozen=True):
    """The owner of each partition, 0 for none. Another version, even a lower one after a fail-over, means that they may have changed:
    what a worker believes to own and does not is lost to it."""

    version: int
    of: Sequence[int]


class Waking(Struct, frozen=True):
    """A handler that has something due."""

    partition: int
    handler_id: int
    user_id: int


class Workers(Protocol):
    """Every method raises Busy while the store cannot answer."""

    async def join(self, who: Introduction) -> int:
        """The new worker's id, higher than those before."""
        ...

    async def beat(self, worker_id: int, seen: int, load: Load, is_leaving: bool) -> Beat | None:
        """None: the worker is not there any more; it has been pruned. `seen` never goes down. Of the worker itself the beat shows the
        state before it."""
        ...

    async def members(self) -> Sequence[Member]:
        """All workers, for those that only look."""
        ...

    async def prune(self, worker_id: int, beat: int) -> bool:
        """Remove a dead worker, and leave its partitions as crashed; waits for a claim of it that is under way. False: it has beaten
        meanwhile, or is gone."""
        ...

    async def leave(self, worker_id: int) -> None:
        """The worker ends. What it has not released is left as crashed."""
        ...

    async def owners(self) -> Owners: ...

    async def take(self, worker_id: int, most: int, held: Collection[int]) -> Sequence[Taken]:
        """Up to so many partitions that nobody owns, those of dead workers first. Nothing for a worker that has been pruned.

        `held`: what it owns as far as it knows. After a lost answer it may own more, which it is given before all else.
        """
        ...

    async def release(self, worker_id: int, states: Mapping[int, bytes | None]) -> None:
        """Give up these partitions, each with what its next owner must know. Those that are somebody else's by now stay as they are."""
        ...

    def ring(self, wakings: Mapping[int, Sequence[Waking]]) -> None:
        """Tell workers, by their ids, what is due. Returns at once, and never raises; what is lost is found by their sweeps."""
        ...

    async def close(self) -> None: ...
