"""The processes that share one store, and which of them owns which partitions of the handlers.

A worker is dead once its beat has stood still for too long on the clock of one that watches; no clocks of two machines are compared.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tocsin.clock import Micros


class Introduction(Struct, frozen=True):
    """What a process says of itself when it joins. `egress`: the name of the address that its requests leave from."""

    name: str
    roles: str
    address: str
    egress: str
    version: str

    @property
    def sends(self) -> bool:
        """Whether it takes partitions; one that only accepts does not."""
        return self.roles != "api"

    @property
    def accepts(self) -> bool:
        """Whether it takes requests; one that only sends does not."""
        return self.roles != "worker"


class Load(Struct, frozen=True):
    """What a worker says of its work. `oldest_due`: since when its longest waiting delivery is due. `clock_ahead`: by how much its own
    clock is ahead of the store's. `egress`: how many starts it has had in the windows that are counted by address. `restored`: the version
    of the owners up to which it counts all that its partitions bring along."""

    in_memory: int = 0
    in_flight: int = 0
    oldest_due: Micros | None = None
    clock_ahead: Micros = 0
    egress: Mapping[str, int] = {}
    restored: int = 0


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
    """What a beat shows: all workers, the version of the owners, the newest change, and the store's clock."""

    members: Sequence[Member]
    owners_version: int
    newest_change: int
    now: Micros


class Taken(Struct, frozen=True):
    """A partition that is ours now. `state`: what it was released with last, None if it never was. `is_crashed`: its owner since then
    has died."""

    partition: int
    is_crashed: bool
    state: bytes | None


class Owners(Struct, frozen=True):
    """The owner of each partition, 0 for none. What a worker believes to own and does not (after a fail-over that lost a commit, where the
    version is lower) is lost to it."""

    version: int
    of: Sequence[int]


class Waking(Struct, frozen=True):
    """A handler that has something due."""

    partition: int
    handler_id: int
    user_id: int


class DueIn(Struct, frozen=True):
    """A handler with pending deliveries in a `partition`, the first of them due at `due_at`. `home`: the handler's own partition; where
    it differs, the handler has moved and these deliveries are to follow it."""

    partition: int
    handler_id: int
    user_id: int
    due_at: Micros
    home: int


class WorkerLine(Struct, frozen=True):
    """A worker in the list of workers. `parts`: the partitions that it owns; `backlog`: deliveries of theirs that are due and not settled;
    `beat_age_ms`: when it was last seen."""

    id: int
    name: str
    roles: str
    parts: int
    beat_age_ms: int
    backlog: int
    in_flight: int
    address: str
    version: str
    is_leaving: bool
    started_at: Micros


class Overview(Struct, frozen=True):
    """All workers, and how many partitions nobody owns, with what is due there."""

    workers: Sequence[WorkerLine]
    nobodys: int
    nobodys_backlog: int


class Workers(Protocol):
    """Every method raises Busy while the store cannot answer, and does so within a few seconds."""

    async def join(self, who: Introduction, rang: Callable[[Sequence[Waking]], None]) -> int:
        """The new worker's id, higher than those before. `rang` is called on the event loop with what others ring for; it is heard from
        before the worker can be seen, and a worker joined before is heard no more."""
        ...

    async def beat(self, worker_id: int, seen: int, load: Load, is_leaving: bool) -> Beat | None:
        """None: the worker is not there any more; it has been pruned."""
        ...

    async def prune(self, worker_id: int, beat: int) -> bool:
        """Remove a dead worker, and leave its partitions as crashed. False: it has beaten meanwhile, or is gone."""
        ...

    async def leave(self, worker_id: int) -> None:
        """The worker ends. What it still owns is left as crashed."""
        ...

    async def owners(self) -> Owners: ...

    async def take(self, worker_id: int, most: int, held: Collection[int]) -> Sequence[Taken]:
        """Up to so many partitions that nobody owns; nothing where the worker has been pruned.

        `held`: what it owns as far as it knows. After an answer that was lost it may own more, which it is given before all else.
        """
        ...

    async def release(self, worker_id: int, states: Mapping[int, bytes | None]) -> None:
        """Give up those of these partitions that it owns, each with what its next owner must know."""
        ...

    async def close(self) -> None: ...

    def ring(self, wakings: Mapping[int, Sequence[Waking]]) -> None:
        """Tell workers, by their ids, what is due. Returns at once; what is lost is found by their sweeps."""
        ...

    async def due_in(self, partitions: Collection[int], until: Micros, since: Micros = 0, first: int | None = None) -> Sequence[DueIn]:
        """Every handler with pending deliveries of these partitions that are due before `until`, by the partition in their rows. With
        `since` only those that are due from then on: a long backlog, which is known, need not be looked through again and again. With
        `first` only so many deliveries of each partition, those that are due first: that takes as long however many there are."""
        ...

    async def rehome(self, handler_id: int, partition: int) -> Waking | None:
        """Its handler has moved: its pending deliveries of this partition follow it. Whom to wake then; None: the handler is gone."""
        ...


class Partitions(Protocol):
    """Who sends for a partition, as far as this process knows."""

    @property
    def worker_id(self) -> int:
        """This process's; 0 while it has lost touch."""
        ...

    @property
    def members(self) -> Sequence[Member]:
        """All processes, as of the last beat."""
        ...

    def owner(self, partition: int) -> int:
        """The worker that sends for it; 0: nobody."""
        ...

    def sends_for(self, partition: int) -> bool:
        """Whether this process does, and knows what its windows and pauses must count."""
        ...

    def fence(self) -> float:
        """Seconds until this process may start anything, 0 if it may now."""
        ...

    def stay(self, partition: int, over: Callable[[], None]) -> Callable[[], None] | None:
        """`over` is called once this process does not send for the partition any more, before anybody else does; call what is returned to
        be told no longer. None: it does not send for it."""
        ...

    async def owner_change(self, seconds: float) -> None:
        """Returns when something has got another owner, or after so long."""
        ...


class Succession(Protocol):
    """The flow, as far as partitions that come and go concern it."""

    async def take_over(self, taken: Sequence[Taken], ready: Callable[[int], None]) -> None:
        """Learn what the windows and pauses of these partitions must count, and record the attempts that a dead owner left under way.
        `ready` is told of each partition that may be sent for. Raises Busy; those that are not ready are asked for again."""
        ...

    async def kept(self) -> None:
        """Whatever the next owners are to read in the store is there. Raises Busy."""
        ...

    def hand_on(self, partitions: Collection[int]) -> Mapping[int, bytes]:
        """What the next owner of each must know; it is forgotten here."""
        ...

    def drop(self) -> None:
        """All of them belong to others now: end what waits for its turn, and forget windows and pauses."""
        ...

    def egress_used(self) -> Mapping[str, int]:
        """How many starts the windows that are counted by address hold now."""
        ...

    def share_egress(self, workers: int, used: Sequence[Mapping[str, int]], is_settled: bool) -> None:
        """So many workers send from this address, this one included; what the others have `used`. 0: nothing may start there now.
        `is_settled`: whatever was handed on has arrived."""
        ...
