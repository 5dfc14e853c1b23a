"""What the next start of a handler waits for. The process that sends for it knows: this one, or another that is asked."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from tocsin.clock import SECOND, Micros
from tocsin.flow.directory import Directory, Loaded
from tocsin.flow.pace import Pacer, Wait
from tocsin.model import Busy
from tocsin.ports.outlooks import Known, Outlook, Outlooks
from tocsin.ports.workers import Partitions

ANSWER_SECONDS = 1.0  # for the process that sends to say what it knows
GATHER_SECONDS = 0.02  # in which all who ask the same process share one question


class Hold(Struct, frozen=True):
    """What keeps a handler's next start: a `wait`, as its sender knows it. `absent`: why there is no sender that could say so. None of the
    processes sends; or none sends for this handler, since the one that did has ended or hands it on; or `sender` does and is silent."""

    wait: Wait = Wait(0.0)
    absent: Literal["", "none", "between", "silent"] = ""
    sender: str = ""


FREE = Hold()


class Waits(Protocol):
    async def of(self, handler_ids: Collection[int]) -> Mapping[int, Hold]:
        """Handlers that are not there, or that the store cannot read now, are left out: they are shown as if they waited for nothing."""
        ...


def next_start(hold: Hold, due_at: Micros, now: Micros) -> Micros:
    """When a waiting delivery can start at the soonest: not before now, nor before a pause that its provider asked for has passed."""
    return due_at if due_at > now else now + int(max(0.0, hold.wait.seconds) * SECOND)


class OwnWaits:
    """Of handlers that this process sends for."""

    def __init__(self, directory: Directory, pacer: Pacer) -> None:
        self._directory = directory
        self._pacer = pacer

    async def of(self, handler_ids: Collection[int]) -> Mapping[int, Hold]:
        return {one: Hold(self.wait(loaded)) for one, loaded in (await self.loaded(handler_ids)).items()}

    async def loaded(self, handler_ids: Collection[int]) -> dict[int, Loaded]:
        with contextlib.suppress(Busy):
            await self._directory.prepare(handler_ids)
        found = {one: self._directory.cached(one) for one in handler_ids}
        return {one: loaded for one, loaded in found.items() if loaded is not None}

    def wait(self, loaded: Loaded) -> Wait:
        return self._pacer.wait(loaded.credential, loaded.paces, time.monotonic(), loaded.realm)


class _Question(Struct, eq=False):
    handler_ids: set[int]
    answer: "asyncio.Task[Known]"


class WaitsOfOwners:
    """Where several processes share the store."""

    def __init__(self, own: OwnWaits, partitions: Partitions, outlooks: Outlooks) -> None:
        self._own = own
        self._partitions = partitions
        self._outlooks = outlooks
        self._gathering: dict[int, _Question] = {}  # by owner: a question to which more handlers may be added
        outlooks.answer_with(self._answer)

    async def of(self, handler_ids: Collection[int]) -> Mapping[int, Hold]:
        loaded, partitions = await self._own.loaded(handler_ids), self._partitions
        found: dict[int, Hold] = {}
        asked: dict[int, list[int]] = defaultdict(list)
        for handler_id, one in loaded.items():
            partition = one.partition or 0
            owner = partitions.owner(partition)
            if partitions.sends_for(partition):  # which beats may not have shown yet
                found[handler_id] = Hold(self._own.wait(one))
            elif owner not in {0, partitions.worker_id}:
                asked[owner].append(handler_id)
            else:
                found[handler_id] = self._nobodys()
        with contextlib.suppress(Busy):
            answers = await asyncio.gather(*(self._ask(owner, some) for owner, some in asked.items()))
            for (owner, some), known in zip(asked.items(), answers, strict=True):
                found |= {one: self._told(known, owner, one, loaded[one]) for one in some}
        return found

    def _nobodys(self) -> Hold:
        if not self._partitions.worker_id:
            return FREE  # this process is the one that does not know
        sends = any(one.introduction.sends and not one.is_leaving for one in self._partitions.members)
        return Hold(absent="between" if sends else "none")

    def _told(self, known: Known, owner: int, handler_id: int, loaded: Loaded) -> Hold:
        if handler_id not in known:
            names = [one.introduction.name for one in self._partitions.members if one.id == owner]
            return Hold(absent="silent", sender=names[0]) if names else self._nobodys()
        outlook = known[handler_id]
        if outlook is None:
            return Hold(absent="between")
        paces = loaded.paces
        pace = paces[outlook.pace] if outlook.pace is not None and outlook.pace < len(paces) else None
        return Hold(Wait(outlook.seconds, pace))

    async def _ask(self, owner: int, handler_ids: Sequence[int]) -> Known:
        question = self._gathering.get(owner)
        if question is None:
            answer = asyncio.get_running_loop().create_task(self._put(owner))
            question = self._gathering[owner] = _Question(set(), answer)
        question.handler_ids.update(handler_ids)
        return await asyncio.shield(question.answer)  # others wait for it too

    async def _put(self, owner: int) -> Known:
        await asyncio.sleep(GATHER_SECONDS)
        question = self._gathering.pop(owner)
        return await self._outlooks.ask(owner, sorted(question.handler_ids), ANSWER_SECONDS)

    async def _answer(self, handler_ids: Sequence[int]) -> Known:
        if self._partitions.fence() > 0:
            return {}  # others may have taken over already
        loaded = await self._own.loaded(handler_ids)
        return {one: self._outlook(loaded[one]) for one in loaded}

    def _outlook(self, loaded: Loaded) -> Outlook | None:
        if not self._partitions.sends_for(loaded.partition or 0):
            return None
        wait = self._own.wait(loaded)
        return Outlook(wait.seconds, None if wait.pace is None else loaded.paces.index(wait.pace))
