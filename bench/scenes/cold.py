"""Another user's messages while one user's thousands of handlers are used for the first time since the start."""

from bench.distant import Distant
from bench.filling import MINE, OTHER, Planned, webhook
from bench.scenes.stage import Goal, Place, Watch, in_seconds, send
from bench.service import Service

HANDLERS, LANES, WAITING = 10_000, 20_000, 5
HOSTS = 500  # that they are spread over
RETRY_SECONDS, JITTER = 2.0, 1.2
AHEAD_SECONDS = 2.0
ENVIRON = {"TOCSIN_RETRY_SCHEDULE": "2s,2s,2s,2s,2s"}
REFUSING, UNUSED, FOR_LATER = 1, 2, 3  # the other user's handlers


def cold_handlers(place: Place) -> list[Goal]:
    """One notification to ten thousand handlers; the other user's retry and `send_at` fall due meanwhile."""
    with place.distant() as distant, place.serving(_planned(distant, HANDLERS, 0), ENVIRON) as running:
        watch = Watch(distant)
        watch.arrivals(send(running, [FOR_LATER], user=OTHER)[0])
        refused = _refused(running, watch)
        send(running, range(4, 4 + HANDLERS))
        return _others(running, watch, refused, f"beside {HANDLERS:,} cold handlers")


def restart(place: Place) -> list[Goal]:
    """Start on 20,000 handlers with five deliveries each that wait."""
    with place.distant() as distant, place.serving(_planned(distant, LANES, WAITING), ENVIRON) as running:
        return _others(running, Watch(distant), None, f"after a restart with {LANES:,} lanes")


def _planned(distant: Distant, count: int, waiting: int) -> list[Planned]:
    other = [webhook(OTHER, distant.url(number, "once" if number == REFUSING else "wait", tag=number)) for number in range(1, 4)]
    return [*other, *(webhook(MINE, distant.url(10 + number % HOSTS, tag=number + 4), waiting) for number in range(count))]


def _refused(running: Service, watch: Watch) -> tuple[int, int]:
    """A message that was refused once, and by when it is to be tried again."""
    notification, _ = send(running, [REFUSING], user=OTHER)
    arrived = watch.arrivals(notification)
    return notification, (arrived[0] if arrived else 0) + int(RETRY_SECONDS * JITTER * 1e9)


def _others(running: Service, watch: Watch, refused: tuple[int, int] | None, where: str) -> list[Goal]:
    first = send(running, [UNUSED], user=OTHER)
    at, due_at = in_seconds(AHEAD_SECONDS)
    later, _ = send(running, [FOR_LATER], user=OTHER, send_at=at)
    if refused is None:
        notification, accepted_at = send(running, [REFUSING], user=OTHER)
        came = watch.arrivals(notification)
        refused = notification, (came[0] if came else accepted_at) + int(RETRY_SECONDS * JITTER * 1e9)
    late = {
        "first message": watch.late_seconds(*first),
        "send_at": watch.late_seconds(later, due_at),
        "retry": watch.late_seconds(*refused, count=2),
    }
    return [Goal(f"another user's {what} {where}", seconds, 1.0, " s") for what, seconds in late.items()]
