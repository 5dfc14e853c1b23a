"""What a worker concludes from what it sees of the others: who is dead, whether it is alone, how much is its to send. All of it is pure."""

import re
from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from tocsin.partitions import PARTITIONS
from tocsin.ports.workers import Member, Owners

BEAT_SECONDS = 0.5
TTL_SECONDS = 3.0  # without a beat, and a worker is dead
MARGIN_SECONDS = 0.5  # by which a worker stops to start before others may call it dead
MAX_GAP_SECONDS = 1.5  # between two looks at the others; after more, they may have been alive in between


class Watch:
    """How long the beat of each worker has stood still while it was looked at without a gap. Times are seconds of one steady clock."""

    def __init__(self, me: int) -> None:
        self._me = me
        self._since: dict[int, tuple[int, float]] = {}  # its beat, and since when it is that
        self._looked_at: float | None = None

    def lost_sight(self) -> None:
        """A look failed: the first to come back after an outage would see all others as dead."""
        self._since.clear()
        self._looked_at = None

    def look(self, members: Sequence[Member], asked_at: float, now: float) -> list[tuple[int, int]]:
        """Those that are dead, each with its last beat. The look was asked for at `asked_at`, so a beat counts from `now` on."""
        if self._looked_at is not None and now - self._looked_at > MAX_GAP_SECONDS:
            self.lost_sight()
        self._looked_at = now
        before, self._since = self._since, {}
        dead: list[tuple[int, int]] = []
        for member in members:
            known = before.get(member.id)
            since = known[1] if known is not None and known[0] == member.beat else now
            self._since[member.id] = (member.beat, since)
            if member.id != self._me and asked_at - since >= TTL_SECONDS:
                dead.append((member.id, member.beat))
        return dead


def sending(members: Sequence[Member]) -> list[Member]:
    """Those that own partitions, or are to."""
    return [one for one in members if one.introduction.sends and not one.is_leaving]


def share_of(me: int, members: Sequence[Member]) -> int:
    """How many partitions this worker is to own at the most. Shares are as equal as can be; together they are all."""
    ids = sorted(one.id for one in sending(members))
    if me not in ids:
        return 0
    each, rest = divmod(PARTITIONS, len(ids))
    return each + (ids.index(me) < rest)


def knows_all_of(me: int, members: Sequence[Member]) -> bool:
    """Whether every other worker has seen this one, so none believes itself to be alone."""
    return all(one.seen >= me for one in members if one.id != me)


def is_alone(me: int, members: Sequence[Member]) -> bool:
    return all(one.id == me for one in members)


def refusal(me: int, version: str, members: Sequence[Member]) -> str | None:
    """Why this worker may not join those that were there before it, in a sentence: each version works beside the one before and after."""
    for one in members:
        who = one.introduction
        if one.id < me and not is_near(version, who.version):
            return (
                f"This is tocsin {version}, and {who.name}, which serves the same store, is {who.version}: versions may differ by one only."
                " Upgrade all processes one version at a time, or stop them all."
            )
    return None


def is_near(version: str, other: str) -> bool:
    """Whether they are the same but for fixes (the third number), or one comes after the other."""
    (major, minor), (other_major, other_minor) = sorted((_numbers(version), _numbers(other)))
    return other_minor - minor <= 1 if major == other_major else other_major - major == 1 and other_minor == 0


def _numbers(version: str) -> tuple[int, int]:
    found = [int(digits) for digits in re.findall(r"\d+", version)[:2]]
    return (*found, 0, 0)[0], (*found, 0, 0)[1]


def to_release(live: Collection[int], busy: Collection[int], count: int) -> list[int]:
    """So many partitions that go to others: as large a share of those with work as of the others, or one that joins would get only those of
    which nothing is under way, and where few have work, none."""
    working = sorted(one for one in live if one in busy)
    idle = sorted(one for one in live if one not in busy)
    count = min(count, len(live))
    of_working = max(round(len(working) * count / len(live)), count - len(idle)) if live else 0
    return [*idle[: count - of_working], *working[:of_working]]


def is_settled(owners: Owners, members: Sequence[Member]) -> bool:
    """Every partition is owned, and its owner counts all that it brought along."""
    return all(owners.of) and all(one.load.restored >= owners.version for one in members if one.introduction.sends)


class EgressShares(Struct):
    """Who else sends from the same address, and what each of them has used of what that address may.

    What a worker has used moves on with its partitions. Until it has arrived there, the worker that is gone counts as if it were here.
    """

    name: str
    me: int
    before: dict[int, Mapping[str, int]] = {}
    gone: dict[int, Mapping[str, int]] = {}
    has_begun: bool = False

    def shares(self, members: Sequence[Member], owners: Owners) -> tuple[int, list[Mapping[str, int]], bool]:
        """Among how many workers the windows of this address are divided (0: this one must wait), what each of the others has used, and
        whether nothing is on its way from one owner to another."""
        here = {one.id: one.load.egress for one in members if one.introduction.sends and one.introduction.egress == self.name}
        self.gone |= {one: used for one, used in self.before.items() if one not in here and one != self.me}
        self.before = here
        settled = is_settled(owners, members)
        if settled:
            self.gone = {}
        self.has_begun = self.has_begun or (settled and self.me in here and knows_all_of(self.me, members))
        others = [used for one, used in (here | self.gone).items() if one != self.me]
        return (len(others) + 1 if self.has_begun else 0), others, settled
