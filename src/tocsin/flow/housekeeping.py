"""What is done now and then: old rows go in small steps that take turns, the use of keys is noted.

A step touches so many rows that it holds the store's writer for about `STEP_SECONDS`: how many that is, its predecessor has shown.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
from msgspec import Struct

from tocsin import clock, observe
from tocsin.clock import DAY, HOUR, SECOND, Micros
from tocsin.model import Busy
from tocsin.ports.changes import KEPT_SECONDS
from tocsin.ports.claims import KEPT as CLAIMS_KEPT
from tocsin.ports.consents import COUNTED_FOR
from tocsin.ports.intake import REMEMBERED_FOR
from tocsin.ports.tidying import START, Old, Swept, Tidying
from tocsin.ports.values import Values
from tocsin.settings import Settings

LOOK_SECONDS = 60.0
STEP_SECONDS = 0.02  # with its commit that leaves it well under 50 ms
MIN_ROWS, MAX_ROWS = 20, 2000  # of a step
FOLD_ROWS = 500  # of which each may have changed a page of its own: a commit that folds in 4,000 pages holds the writer for 40 ms and more
MIN_PAUSE_SECONDS = 0.01  # between steps, and never shorter than the step before: sends come first
MAX_DRIFT: Micros = 3600 * SECOND  # between the two clocks, while the service runs
MAX_STOP: Micros = 86_400 * SECOND  # a longer one looks like a clock that is wrong
DOUBT: Micros = 86_400 * SECOND  # how long the clock must then go evenly before it is believed
BEHIND_AFTER: Micros = 3600 * SECOND
STATE = "housekeeping"  # its row of `meta`

log = structlog.get_logger(__name__)


class State(Struct, frozen=True):
    """What is known of the clock, and how retention fares; kept in the store, for `tocsin check` and the next start.

    `seen`: the clock at the last look; 0: never. `doubted`: whether it made a leap that no stop explains; `even`: for how long it has
    gone evenly since. `behind`: by how much the oldest row that may go has outlived the retention.
    """

    seen: Micros = 0
    doubted: bool = False
    even: Micros = 0
    behind: Micros = 0


def read_state(kept: bytes | None) -> State:
    """What the store keeps of it. Where that means nothing it is as if nothing were known."""
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(kept or b"{}", type=State)
    return State()


def look_at_clock(state: State, now: Micros, passed: Micros | None) -> State:
    """Judge the clock. `passed`: how long ago the last look was by a clock that nobody sets; None: at a start, unknown.

    A clock that is years ahead for a minute would otherwise delete all history. After a stop of more than a day only
    waits a day longer for old rows to go.
    """
    if not state.seen:
        return msgspec.structs.replace(state, seen=now)
    leap = now - state.seen - (passed or 0)
    doubted, even = state.doubted, state.even
    if leap > (MAX_STOP if passed is None else MAX_DRIFT):
        doubted, even = True, 0
    elif leap < -MAX_DRIFT:  # set right again
        doubted, even = False, 0
    elif doubted:
        even += max(0, now - state.seen)
        doubted = even < DOUBT
    return State(now, doubted, even, state.behind)


def next_rows(rows: int, swept: Swept) -> int:
    """How many the next step may touch. A step that found less than half of what it might have touched says nothing of more."""
    wanted = int(rows * STEP_SECONDS / max(swept.seconds, 1e-4))
    most = 2 * rows if swept.rows >= rows // 2 else rows
    return max(MIN_ROWS, min(wanted, most, MAX_ROWS))


class Chore:
    """A kind of rows that go once they are old. `every`: seconds from the end of a round to the next."""

    def __init__(self, what: Old, age: Micros, every: float = LOOK_SECONDS) -> None:
        self.what: Old = what
        self.age = age
        self.every = every
        self.rows = 100
        self.after = START
        self.due_at = 0.0

    async def step(self, tidying: Tidying, now: Micros) -> Swept:
        """Delete some more of it; when its round is over, rest. Raises Busy."""
        swept = await tidying.sweep(self.what, now - self.age, self.rows, self.after)
        self.rows = next_rows(self.rows, swept)
        self.after = START if swept.after is None else swept.after
        if swept.after is None:
            self.due_at = time.monotonic() + self.every
        return swept


def chores(settings: Settings) -> list[Chore]:
    kept = settings.retention_days * DAY
    shared = (
        [Chore("claims", CLAIMS_KEPT), Chore("changes", int(KEPT_SECONDS * SECOND)), Chore("asks", HOUR)] if settings.database_url else []
    )
    return [
        Chore("notifications", kept),
        Chore("idempotency", REMEMBERED_FOR),
        Chore("posts", DAY),
        Chore("consent_asks", COUNTED_FOR, every=3600.0),
        Chore("handlers", kept, every=3600.0),
        Chore("totals", 0, every=3600.0),
        Chore("usage", 2 * DAY, every=3600.0),
        Chore("audit", settings.audit_days * DAY, every=3600.0),
        *shared,
    ]


class Housekeeping:
    """Runs the chores, each in small steps with pauses, until cancelled. `notes`: what each process writes down now and then.
    `leads`: whether old rows are this process's business.
    """

    def __init__(
        self,
        tidying: Tidying,
        values: Values,
        notes: Sequence[Callable[[], Awaitable[None]]],
        settings: Settings,
        clock: Callable[[], Micros] = clock.now,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        self._tidying = tidying
        self._values = values
        self._notes = notes
        self._chores = chores(settings)
        self._clock = clock
        self._leads = leads
        self._state = State()
        self._unfolded = 0  # rows
        self._looked_at: float | None = None  # by the steady clock

    @property
    def is_deferred(self) -> bool:
        """Nothing is deleted: the clock is not believed."""
        return self._state.doubted

    @property
    def behind_seconds(self) -> float:
        """By how much the oldest row that may go has outlived the retention; 0: it keeps up."""
        return self._state.behind / SECOND

    async def run(self) -> None:
        """Until cancelled."""
        is_done = True
        while True:
            await asyncio.sleep(LOOK_SECONDS if is_done else MIN_PAUSE_SECONDS)
            is_done = True
            for work in (*self._notes, self._look_and_sweep):
                try:
                    is_done = await work() is not False
                except Busy as busy:
                    observe.seldom(log.warning, "housekeeping.waits", why=str(busy))
                except Exception as error:  # noqa: BLE001  # and it goes on: rows would pile up otherwise
                    observe.seldom(log.error, "housekeeping.failed", exc_info=error)

    async def _look_and_sweep(self) -> bool:
        if not self._leads():
            self._looked_at = None  # another process looks meanwhile, and keeps what it finds
            return True
        await self.look()
        return await self.sweep_for(LOOK_SECONDS)

    async def look(self) -> None:
        """Judge the clock, and keep what is found. Raises Busy."""
        if self._looked_at is None:
            self._state = read_state(await self._values.read(STATE))
        was_doubted = self._state.doubted
        self._judge()
        if self._state.doubted and not was_doubted:
            log.error("housekeeping.deferred", why="the clock jumped; nothing is deleted until it is set right or has run evenly for a day")
        if self._state.behind > BEHIND_AFTER:
            observe.seldom(log.warning, "housekeeping.behind", hours=round(self._state.behind / SECOND / 3600, 1))
        await self._values.write(STATE, msgspec.json.encode(self._state))

    def _judge(self) -> None:
        steady = clock.steady()
        passed = None if self._looked_at is None else int((steady - self._looked_at) * SECOND)
        self._looked_at = steady
        self._state = look_at_clock(self._state, self._clock(), passed)

    async def sweep_for(self, seconds: float) -> bool:
        """The chores that are due take turns, step by step, until all have ended their round (True) or the time is up. Raises Busy."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._leads():
            due = [chore for chore in self._chores if chore.due_at <= time.monotonic()]
            for chore in due:
                await self._step(chore)
            if not due or self._state.doubted:
                return True
        return False

    async def _step(self, chore: Chore) -> None:
        self._judge()
        if self._state.doubted:
            return
        now = self._clock()
        swept = await chore.step(self._tidying, now)
        self._unfolded += swept.rows
        if self._unfolded >= FOLD_ROWS:
            self._unfolded = 0
            await self._tidying.fold_log()
        if chore.what == "notifications":
            self._note_behind(swept, now - chore.age)
        await asyncio.sleep(max(MIN_PAUSE_SECONDS, swept.seconds))

    def _note_behind(self, swept: Swept, before: Micros) -> None:
        if swept.after is None:
            self._state = msgspec.structs.replace(self._state, behind=0)
        elif swept.at is not None:
            self._state = msgspec.structs.replace(self._state, behind=max(0, before - swept.at))
