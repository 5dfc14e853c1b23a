"""A handler's state, told from what its deliveries met: one that takes nothing is not well, however it was registered."""

from msgspec import Struct

from tocsin.clock import Micros
from tocsin.flow.directory import SEALED
from tocsin.model import Handler, Reason
from tocsin.ports.standings import Standing

STATES = ("ok", "failing", "unconfirmed", "paused", "switched_off")


class HandlerState(Struct, frozen=True):
    """`word`: one of STATES. `since`: from when on it is so, where that is kept. `reason` and `detail`: what the latest attempt met, or why
    it was switched off. `waiting`: deliveries, counted to 10,000; `next_at`: when the next of them can start, never in the past.
    `has_expired`: the delivery of that latest attempt has expired since.
    """

    word: str
    since: Micros | None = None
    reason: Reason | None = None
    detail: str = ""
    waiting: int = 0
    next_at: Micros | None = None
    has_expired: bool = False


def state_of(handler: Handler, standing: Standing, next_at: Micros | None) -> HandlerState:
    """`next_at`: when the next of those that wait can start, as `waits.next_start` says."""
    event, waiting = standing.event, standing.waiting
    if handler.is_sealed and handler.is_enabled:  # nothing is sent to it, whatever was before
        return HandlerState("failing", standing.failing_since, Reason.SETTINGS, SEALED, waiting, next_at)
    if not handler.is_enabled:
        since = None if event is None else event.at
        if handler.disabled_reason is None:
            if event is not None and event.what == "unsubscribed":
                return HandlerState("paused", since, event.reason, event.detail, waiting, next_at)
            return HandlerState("paused", since, None, "", waiting, next_at)
        reason = None if event is None else event.reason
        return HandlerState("switched_off", since, reason, handler.disabled_reason, waiting, next_at)
    if standing.unconfirmed_since is not None:
        return HandlerState("unconfirmed", standing.unconfirmed_since, Reason.UNCONFIRMED, "", waiting, next_at)
    if standing.failing_since is None:
        return HandlerState("ok", waiting=waiting, next_at=next_at)
    reason, detail = met(standing.reason, standing.error)
    has_expired = standing.reason is Reason.EXPIRED is not reason
    return HandlerState("failing", standing.failing_since, reason, detail, waiting, next_at, has_expired)


_REASONS = {*Reason}


def met(reason: Reason | None, error: str | None) -> tuple[Reason | None, str]:
    """What a delivery's last attempt met, and what was said beside that. One that ended without another attempt, as an expired one
    does, has it within its last error: "expired: server_error: 500 busy".
    """
    if not error or reason is None:
        return reason, error or ""
    detail = error.removeprefix(reason.value).removeprefix(":").strip()
    word, _, rest = detail.partition(":")
    return (Reason(word), rest.strip()) if word in _REASONS else (reason, detail)
