"""Which deliveries a request becomes, or what is wrong with the handlers that it names. Pure."""

from collections.abc import Mapping, Sequence

from tocsin.clock import Micros
from tocsin.model import Draft, Fault, Invalid, Reason, Status, all_faults
from tocsin.ports.handlers import HandlerBrief
from tocsin.ports.intake import Planned, PlannedDelivery

MAX_DELIVERIES = 10_000  # of one request
MAX_NAMED = 10  # unknown handlers in a sentence; the others are only mentioned
_PENDING = Status.PENDING  # to ask an enum for a member takes as long as ten other look-ups on Python 3.11


def plan(drafts: Sequence[Draft], handlers: Mapping[int, HandlerBrief], batch: bool = False, faults: Sequence[Fault] = ()) -> list[Planned]:
    """What each draft becomes: a notification with one delivery per handler, in the order given.

    `faults`: what is already known to be wrong; then the drafts may have gaps, and only the handlers they name are looked at.
    Raises Invalid, with everything that is wrong.
    """
    enabled: list[int] | None = None
    planned: list[Planned] = []
    found: list[Fault] = []
    count = 0
    for index, draft in enumerate(drafts):
        wanted = named = draft.handlers
        if wanted is None:
            wanted = enabled = _enabled(handlers) if enabled is None else enabled
        count += len(wanted)
        if not wanted or (named and not all(map(handlers.__contains__, named))):
            found.append(_fault(named, handlers, f"notifications[{index}].handlers" if batch else "handlers"))
        elif count <= MAX_DELIVERIES:
            planned.append(_planned(draft, wanted, handlers))
    if count > MAX_DELIVERIES and not found and not faults:
        detail = f"The request would make {count:,} deliveries; at most {MAX_DELIVERIES:,} are allowed."
        found.append(Fault("too_many_deliveries", "Too many deliveries", detail, None if batch else "handlers"))
    if found or faults:
        raise Invalid(*all_faults(faults, found))
    return planned


def _enabled(handlers: Mapping[int, HandlerBrief]) -> list[int]:
    return [brief.id for brief in handlers.values() if brief.is_enabled]


def _planned(draft: Draft, wanted: Sequence[int], handlers: Mapping[int, HandlerBrief]) -> Planned:
    at = draft.message.at
    due_at = at if draft.send_at is None else max(at, draft.send_at)
    deliveries: list[PlannedDelivery] = []
    for handler_id in wanted:
        brief = handlers[handler_id]
        deliveries.append(
            PlannedDelivery(handler_id, _PENDING, due_at, None, brief.partition) if brief.is_enabled else _skipped(brief, due_at)
        )
    return Planned(draft.message, draft.send_at, draft.expires_at, tuple(deliveries))


def _skipped(brief: HandlerBrief, due_at: Micros) -> PlannedDelivery:
    reason = Reason.HANDLER_DISABLED if brief.disabled_reason else Reason.HANDLER_PAUSED
    return PlannedDelivery(brief.id, Status.SKIPPED, due_at, reason, brief.partition)


def _fault(named: tuple[int, ...] | None, handlers: Mapping[int, HandlerBrief], parameter: str) -> Fault:
    if named is None:
        return Fault("no_handlers", "Nothing to send to", "There is no enabled handler to send to.", parameter)
    if not named:
        return Fault("no_handlers", "Nothing to send to", "The list of handlers is empty.", parameter)
    unknown = [str(one) for one in named if one not in handlers]
    listed = ", ".join(unknown[:MAX_NAMED]) + (" and more" if len(unknown) > MAX_NAMED else "")
    return Fault("unknown_handler", "Unknown handler", f"There is no notification handler with id {listed}.", parameter)
