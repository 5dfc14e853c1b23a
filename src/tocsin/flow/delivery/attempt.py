"""One attempt, from settings to outcome: render, wait for a turn, send, read the answer. Deliveries and test sends take the same steps."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tocsin import clock, observe
from tocsin.channels.contract import Context
from tocsin.clock import Micros
from tocsin.flow import pools
from tocsin.flow.delivery.rendering import render_now, renders_quickly, within_budget
from tocsin.flow.delivery.shown import shown_reply
from tocsin.flow.directory import Loaded
from tocsin.flow.pace import Pacer
from tocsin.model import Busy, Delivered, HttpReply, Later, Message, NoReply, Outcome, Reason, Refused, Reply, Request
from tocsin.net.wires import Sender
from tocsin.ports.engine import Place

BEGUN, RENDERING, WAITING, ON_WIRE, ANSWERED = "begun", "rendering", "waiting", "on the wire", "answered"
STEPS = {
    BEGUN: {RENDERING, ANSWERED},
    RENDERING: {WAITING, ON_WIRE, ANSWERED},
    WAITING: {ON_WIRE, ANSWERED},
    ON_WIRE: {WAITING, RENDERING, ANSWERED},
    ANSWERED: set[str](),
}
"""What an attempt may become. From the wire it goes on to its next part, or once more with the plainest form.

Tests hold every change against this; a call that would be one is checked where it comes from outside, in `start` and `replied`.
"""

FAULT_OF_OURS = Later(Reason.INTERNAL, detail="This is a fault of the service, not of the provider; it is in the log.")
NO_SLOT = Later(Reason.THROTTLED, counts=False)  # within the deadline
STOPPED = NoReply(Reason.CUT, sent=False, detail="The service was stopped while it waited for its turn.", stopped=True)
_NO_REST = "The rest of the message could not be rendered in time: this is a fault of the service."
_UNREADABLE = "The provider's answer could not be read: this is a fault of the service."
_OUR_PAYLOAD = {Reason.PAYLOAD, Reason.TOO_LARGE}

P = TypeVar("P", bound=Place)
T = TypeVar("T")
log = structlog.get_logger(__name__)


class Wire(Protocol):
    """The wires, as far as an attempt needs them."""

    def start(self, request: Request, sender: Sender, /) -> None:
        """Returns at once; `sender` is told how it goes."""
        ...


class NoPlace:
    """For a test send, which takes no place of the engine's."""

    def rest(self) -> None:
        pass

    async def resume(self) -> None:
        pass

    def alone(self, is_alone: bool, /) -> None:
        pass


class OutOfOrder(Exception):
    """An attempt was told what cannot come now, such as a second answer: it stays what it is."""


class Attempt(Struct, Generic[P], eq=False, gc=False):
    """Sends what has not arrived yet, part after part. A step with nothing to wait for takes the next one at once, without a task.

    `part`: parts that have arrived by now, those of earlier attempts included; `handles`: of several, what the provider calls those
    that arrived with this one.
    `tasks`: of attempts that wait; cancelling one ends its attempt with what is known.
    `has_turn`: the turn of the next part was taken by the caller. `refusal`: the answer with which the provider refused the native form;
    `requests` and `reply` are of the plainest form then. `deadline`: a turn that would come after it is not waited for.
    """

    loaded: Loaded
    message: Message
    context: Context
    part: int
    wires: Wire
    pacer: Pacer
    place: P
    tasks: set[asyncio.Task[Any]]
    has_turn: bool = True
    is_alone: bool = False
    deadline: float | None = None
    state: str = BEGUN
    requests: Sequence[Request] = ()
    began: float = 0.0  # the exchange that is on the wire
    duration_us: int = 0  # on the wire, all parts together
    reply: Reply | None = None
    refusal: Reply | None = None
    handles: tuple[str | None, ...] = ()
    outcome: Outcome = FAULT_OF_OURS

    # --------------------------------------------------------------------------------------------- for whom it is made

    def goes_out(self) -> None:
        """Called before anything of a part goes out."""

    async def look_up_posts(self) -> Refused | str:
        """For providers that count posts or refuse a repeated text: note the post. A refusal, or what makes a repeat differ."""
        return ""

    def ended(self) -> None:
        """Called once, when `outcome` is known."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------------- the steps

    def start(self) -> None:
        """Once. Whatever happens, `ended` follows. Raises OutOfOrder if it has begun before."""
        if self.state != BEGUN:
            raise OutOfOrder(f"It has begun, and is {self.state}.")
        self.state = RENDERING
        try:
            self._render(self.context, self._rendered)
        except Exception as error:  # noqa: BLE001  # see `_fail`
            self._fail(error)

    def _render(self, context: Context, then: Callable[[Sequence[Request] | Refused], None]) -> None:
        """What takes longer than the event loop may be held waits for its user's turn in the pool of renderings."""
        if renders_quickly(self.loaded, self.message):
            then(render_now(self.loaded, self.message, context))
            return
        self._be_alone(True)  # the next one may not overtake it
        self._wait(within_budget(pools.here().rendering, render_now, self.loaded, self.message, context), then)

    def _rendered(self, requests: Sequence[Request] | Refused) -> None:
        if isinstance(requests, Refused):
            self._end(requests)
            return
        self.requests = requests
        if self.loaded.counts_posts:
            self._be_alone(True)
            self._wait(self.look_up_posts(), self._counted)
        elif len(requests) == self.part + 1 and self.has_turn and not self.is_alone:
            self._send()  # nearly always
        else:
            self._go_on()

    def _counted(self, found: Refused | str) -> None:
        if isinstance(found, Refused):
            self._end(found)
        elif found:
            self.context = replace(self.context, suffix=found)
            self._render(self.context, self._made_to_differ)
        else:
            self._go_on()

    def _made_to_differ(self, requests: Sequence[Request] | Refused) -> None:
        if isinstance(requests, Refused):
            self._end(requests)
        else:
            self.requests = requests
            self._go_on()

    def _go_on(self) -> None:
        """The requests are there."""
        left = len(self.requests) - self.part
        if left <= 0:  # more parts have arrived than this form has: it was cut to fit the budget, and the rest is missing
            self._end(Refused(Reason.INTERNAL, _NO_REST, ours=True))
            return
        if self.is_alone or left > 1:
            self._be_alone(left > 1)
        self._next()

    def _next(self) -> None:
        """The next part goes out when it is its turn."""
        if self.has_turn:
            self.has_turn = False
            self._send()
            return
        self.state = WAITING
        wait = self._take_turn()
        if wait > 0:
            self._wait(self._turn(wait), self._turn_came)
        else:
            self._send()

    async def _turn(self, wait: float) -> bool:
        """Wait for the next start that the pace allows, without holding a place. False: it would come after the deadline."""
        while wait > 0:
            if self.deadline is not None and time.monotonic() + wait > self.deadline:
                return False
            self.place.rest()
            await asyncio.sleep(wait)
            await self.place.resume()
            wait = self._take_turn()
        return True

    def _take_turn(self) -> float:
        loaded = self.loaded
        return self.pacer.take(loaded.credential, loaded.paces, time.monotonic(), loaded.realm)

    def _turn_came(self, came: bool) -> None:
        if came:
            self._send()
        else:
            self._end(NO_SLOT)

    def _send(self) -> None:
        self.state = ON_WIRE
        self.began = time.perf_counter()
        self.wires.start(self.requests[self.part], self)

    def replied(self, reply: Reply) -> None:
        """The provider has answered, or there will be no answer."""
        if self.state != ON_WIRE:
            raise OutOfOrder(f"It is {self.state}, and waits for no answer.")
        self.duration_us += int((time.perf_counter() - self.began) * 1_000_000)
        self.reply = reply
        try:
            outcome = self._classify(reply)
            rest_seconds = self.loaded.channel.rest_seconds
            if rest_seconds is not None and isinstance(reply, HttpReply):
                self._heed_limits(rest_seconds, reply)
            if isinstance(outcome, Delivered):
                self._arrived(outcome)
            elif isinstance(outcome, Refused) and outcome.ours and outcome.reason in _OUR_PAYLOAD and not self.context.plain:
                self._try_plainly(outcome)
            else:
                self._end(outcome)
        except Exception as error:  # noqa: BLE001  # see `_fail`
            self._fail(error)

    def _arrived(self, outcome: Delivered) -> None:
        part, parts = self.part + 1, len(self.requests)
        self.part = part
        if parts > 1:
            self.handles = (*self.handles, outcome.provider_id)
        if part < parts:
            self._next()
        else:
            self._end(outcome)

    def _try_plainly(self, refused: Refused) -> None:
        """What we made is not to the provider's liking: our fault, so the message goes out once more, in the plainest form."""
        self.outcome = refused
        self.state = RENDERING
        self._render(replace(self.context, plain=True), self._rendered_plainly)

    def _rendered_plainly(self, requests: Sequence[Request] | Refused) -> None:
        """From the refused part on. The refusal stays where that form is the same or cannot be made."""
        if isinstance(requests, Refused):
            self._end(self.outcome)
            return
        self.context = replace(self.context, plain=True)
        if requests[self.part :] == self.requests[self.part :]:  # then the answer was to the plainest form
            self._end(self.outcome if self.reply is None else self._classify(self.reply))
            return
        _, said = shown_reply(self.reply, self.loaded.secrets)
        log.warning("payload.refused", type=self.loaded.channel.type, delivery=self.context.delivery_id, part=self.part, answer=said)
        self.refusal, self.requests, self.has_turn = self.reply, requests, False
        self._go_on()

    def _end(self, outcome: Outcome) -> None:
        self.state = ANSWERED
        if self.refusal is not None and isinstance(outcome, Delivered):
            outcome = replace(outcome, plain=True)
        self.outcome = outcome
        self.ended()

    # -------------------------------------------------------------------------------------------------------- answers

    def _classify(self, reply: Reply) -> Outcome:
        channel = self.loaded.channel
        try:
            return channel.no_reply(reply) if isinstance(reply, NoReply) else channel.classify(reply, self.context)
        except Exception as error:  # noqa: BLE001  # whatever it was, it is in the log
            observe.seldom(log.error, "classify.failed", type=channel.type, delivery=self.context.delivery_id, exc_info=error)
            return Refused(Reason.INTERNAL, _UNREADABLE, ours=True)

    def _heed_limits(self, rest_seconds: Callable[[HttpReply, Micros], float], reply: HttpReply) -> None:
        """Pause the credential where an answer says that its limit is used up: the next one would be throttled."""
        try:
            rest = rest_seconds(reply, clock.now())
        except Exception as error:  # noqa: BLE001  # it has no say in whether the message arrived
            observe.seldom(log.error, "limits.failed", type=self.loaded.channel.type, delivery=self.context.delivery_id, exc_info=error)
            return
        if rest > 0:
            now = time.monotonic()
            self.pacer.pause(self.loaded.credential, now + rest, now)

    # -------------------------------------------------------------------------------------------- from step to step

    def _be_alone(self, is_alone: bool) -> None:
        if is_alone != self.is_alone:
            self.is_alone = is_alone
            self.place.alone(is_alone)

    def _wait(self, work: Coroutine[Any, Any, T], then: Callable[[T], None]) -> None:
        """`then` is the next step, once `work` is done."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(functools.partial(self._waited, then))

    def _waited(self, then: Callable[[T], None], task: "asyncio.Task[T]") -> None:
        self.tasks.discard(task)
        try:
            if task.cancelled():
                self.reply = STOPPED
                self._end(self._classify(STOPPED))
            else:
                then(task.result())
        except Exception as error:  # noqa: BLE001  # see `_fail`
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A fault of ours ends the attempt, and `ended` is told. An error after the end is not ours."""
        if self.state == ANSWERED:
            raise error
        if isinstance(error, Busy):
            observe.seldom(log.warning, "attempt.waits", delivery=self.context.delivery_id, why=str(error))
        else:
            observe.seldom(log.error, "attempt.failed", delivery=self.context.delivery_id, exc_info=error)
        self.reply = None
        self._end(FAULT_OF_OURS)
