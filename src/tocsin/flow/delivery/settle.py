"""What follows from an outcome. Channels decide what an answer means, settle decides what to do about it. Pure."""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from tocsin.channels.contract import AnyChannel
from tocsin.clock import SECOND, Micros
from tocsin.model import Delivered, Delivery, Gone, Later, Moved, Outcome, Reason, Refused, Status, Unknown, Value
from tocsin.settings import Settings

MIN_THROTTLE_SECONDS = 0.2
LONGEST_THROTTLE_SECONDS = 86_400.0
THROTTLES_TAKEN_AT_THEIR_WORD = 10  # in a row; from then on the waits double, so that a provider that always throttles costs little
LONGEST_OWN_THROTTLE_SECONDS = 300.0
MAX_THROTTLES = 500  # in a row
JITTER = 0.2
_PENDING, _DELIVERED, _OK = Status.PENDING, Status.DELIVERED, Reason.OK  # to ask an enum for a member takes as long as ten other look-ups
LATE_AFTER: Micros = 5 * 60 * SECOND
# Nobody's handler is to blame for these.
_OURS = {
    *(Reason.MAIL_NOT_CONFIGURED, Reason.MAIL_ACCOUNT, Reason.MAIL_SERVER, Reason.BLOCKED, Reason.PAYLOAD, Reason.TOO_LARGE, Reason.BUDGET),
    *(Reason.SETTINGS, Reason.INTERNAL, Reason.PROXY),
}
MAX_MOVES = 3  # new addresses in a row before we stop believing them


class Decision(Value, frozen=True):
    """What is done about an outcome.

    `delivery` is the row as it will be. `pause_seconds`: nothing goes out on this credential for so long. `switch_off`: why
    the handler is disabled, in plain words. `new_settings`: values that replace the handler's of the same names. `blames`: the delivery
    failed, and by the handler's own fault.
    """

    delivery: Delivery
    reason: Reason
    pause_seconds: float = 0.0
    switch_off: str | None = None
    new_settings: Mapping[str, str] | None = None
    blames: bool = False

    @property
    def due_at(self) -> Micros | None:
        """When it is due again; None: it has ended."""
        return self.delivery.due_at if self.delivery.status is _PENDING else None


class _Case(Struct, frozen=True):
    """What a wait is reckoned from."""

    delivery: Delivery
    channel: AnyChannel
    settings: Settings
    now: Micros
    dice: float


def decide(outcome: Outcome, delivery: Delivery, channel: AnyChannel, settings: Settings, now: Micros, dice: float) -> Decision:
    """`delivery` already counts the attempt; `dice` is a random number from 0 to 1."""
    match outcome:
        case Delivered():
            return delivered(
                outcome, delivery, delivery.attempt_count, delivery.last_attempt_at or now, delivery.late or False, delivery.part
            )
        case Later(counts=False):
            return _throttled(outcome, delivery, now, dice)
        case Later():
            case = _Case(delivery, channel, settings, now, dice)
            return _again(case, outcome.reason, outcome.detail, outcome.wait_seconds or 0.0)
        case Unknown():
            row = replace(delivery, may_have_arrived=True)
            detail = f"It may have arrived: no answer came back. {outcome.detail}".rstrip()
            if settings.unknown == "stop":
                return _failed(row, Reason.UNKNOWN, detail, ours=outcome.reason in _OURS)
            return _again(_Case(row, channel, settings, now, dice), outcome.reason, detail, channel.unknown_wait_seconds)
        case Refused():
            return _failed(delivery, outcome.reason, outcome.detail, ours=outcome.ours)
        case Gone():
            ended = _ended(delivery, outcome.reason, outcome.detail)
            return replace(ended, switch_off=outcome.detail or outcome.reason.value)
        case Moved():
            return _moved(outcome, _Case(delivery, channel, settings, now, dice))


def _ended(delivery: Delivery, reason: Reason, detail: str, status: Status = Status.FAILED) -> Decision:
    row = replace(delivery, status=status, last_reason=reason, last_error=error_text(reason, detail))
    return Decision(row, reason)


def delivered(outcome: Delivered, before: Delivery, number: int, at: Micros, late: bool, part: int) -> Decision:
    """It arrived with attempt `number`, begun `at`. Nearly all traffic: so the row is made in one go."""
    row = replace(
        before,
        status=_DELIVERED,
        attempt_count=number,
        last_attempt_at=at,
        late=late,
        part=part,
        throttles=0,
        may_have_arrived=False,
        last_reason=_OK,
        last_error=None,
    )
    return Decision(row, Reason.PLAIN if outcome.plain else _OK)


def _failed(delivery: Delivery, reason: Reason, detail: str, *, ours: bool = False) -> Decision:
    return replace(_ended(delivery, reason, detail), blames=not ours and reason not in _OURS)


def _again(case: _Case, reason: Reason, detail: str, least_wait: float = 0.0) -> Decision:
    delivery, schedule, most = case.delivery, case.settings.retry_schedule, case.channel.max_attempts
    out_of_tries = most is not None and delivery.step + 1 >= most
    if delivery.step >= len(schedule) or out_of_tries:
        return _failed(delivery, reason, detail)
    wait = max(schedule[delivery.step], least_wait) * (1 + JITTER * case.dice)
    row = replace(
        delivery,
        step=delivery.step + 1,
        throttles=0,
        due_at=case.now + int(wait * SECOND),
        last_reason=reason,
        last_error=error_text(reason, detail),
    )
    return Decision(row, reason)


def _throttled(outcome: Later, delivery: Delivery, now: Micros, dice: float) -> Decision:
    wait = outcome.wait_seconds or MIN_THROTTLE_SECONDS
    doublings = delivery.throttles if outcome.wait_seconds is None else delivery.throttles - THROTTLES_TAKEN_AT_THEIR_WORD
    if outcome.wait_seconds is None or doublings > 0:
        wait = max(wait, min(2.0 ** min(doublings, 20), LONGEST_OWN_THROTTLE_SECONDS))
    waited_seconds = (now - max(delivery.first_due_at, delivery.created_at)) / SECOND
    is_endless = delivery.throttles > 0 and delivery.replays == 0 and waited_seconds > LONGEST_THROTTLE_SECONDS
    if wait > LONGEST_THROTTLE_SECONDS or is_endless or delivery.throttles >= MAX_THROTTLES:
        # The credential rests all the same: what waits behind it is not thrown at a provider that has said no.
        failed = _failed(delivery, Reason.THROTTLED_TOO_LONG, outcome.detail)
        return replace(failed, pause_seconds=min(wait, LONGEST_THROTTLE_SECONDS))
    wait = max(wait, MIN_THROTTLE_SECONDS)
    due_at = now + int(wait * (1 + JITTER * dice / 4) * SECOND)
    row = replace(
        delivery,
        throttles=delivery.throttles + 1,
        due_at=due_at,
        last_reason=outcome.reason,
        last_error=error_text(outcome.reason, outcome.detail),
    )
    return Decision(row, outcome.reason, pause_seconds=wait)


def _moved(outcome: Moved, case: _Case) -> Decision:
    delivery = case.delivery
    if delivery.throttles >= MAX_MOVES:  # counted like throttles: neither uses up a step
        return _again(case, Reason.MOVED, outcome.detail)
    row = replace(delivery, throttles=delivery.throttles + 1, due_at=case.now, last_reason=Reason.MOVED)
    return Decision(row, Reason.MOVED, new_settings=outcome.settings)


def is_late(delivery: Delivery, at: Micros) -> bool:
    """Whether a delivery says for when it was meant. The first attempt, begun `at`, decides it for all others."""
    return at - delivery.first_due_at > LATE_AFTER if delivery.late is None else delivery.late


def error_text(reason: Reason, detail: str) -> str:
    """`last_error` of a delivery: the reason's word, then what was said."""
    return f"{reason.value}: {detail}" if detail else reason.value


def ended_without_attempt(delivery: Delivery, status: Status, reason: Reason, now: Micros, detail: str = "") -> Decision:
    """Expired, or its handler is not to be used. When that was is kept as the time at which it was last due."""
    return _ended(replace(delivery, due_at=now), reason, detail, status)
