"""Healthy handlers beside those that hang or are slow, of the same user, and newcomers beside thousands that hang."""

import time

from bench.filling import MINE, OTHER, webhook
from bench.load import Figures, Load, run
from bench.scenes.stage import Goal, Place, Watch, send
from bench.service import Service

ANSWERS_MS = (0, 60, 250)  # of the healthy ones
RATE = 30.0  # messages a second to each of them
ALONE_SECONDS, BESIDE_SECONDS = 5.0, 10.0
HANGING_DELIVERIES, SLOW_DELIVERIES = 6, 12  # to each
SLOW_MS = 2000
SETTLE_IN_SECONDS = 2.0
UNCHANGED = 0.97
MAX_MB = 130.0


def beside(place: Place, count: int, answer: str, wait_ms: int, each: int) -> list[Goal]:
    """Three healthy handlers alone, and then beside `count` that answer so and have `each` deliveries waiting."""
    with place.distant() as distant:
        healthy = [webhook(MINE, distant.url(number, wait_ms=ms)) for number, ms in enumerate(ANSWERS_MS)]
        others = [webhook(MINE, distant.url(10 + number, answer, wait_ms)) for number in range(count)]
        with place.serving([*healthy, *others]) as running:
            loads = [Load([number], RATE, ALONE_SECONDS) for number in range(1, 4)]
            run(running, distant, *(Load(one.handlers, RATE, 1.0) for one in loads))
            alone = run(running, distant, *loads)
            fill_up(running, range(4, 4 + count), each)
            time.sleep(SETTLE_IN_SECONDS)
            found = run(running, distant, *(Load(one.handlers, RATE, BESIDE_SECONDS) for one in loads))
    return _judged(place, f"beside {count:,} that {'hang' if answer == 'hang' else 'take 2 s'}", alone, found)


def fill_up(running: Service, handlers: range, each: int) -> None:
    for number in range(each):
        send(running, handlers, f"backlog {number}")


def _judged(place: Place, where: str, alone: list[Figures], found: list[Figures]) -> list[Goal]:
    goals: list[Goal] = []
    for ms, before, after in zip(ANSWERS_MS, alone, found, strict=True):
        place.say(f"  {ms} ms alone: {before.line()}")
        place.say(f"  {ms} ms {where}: {after.line()}")
        bound = max(2 * before.p99_ms, before.p99_ms + 25)
        goals.append(Goal(f"{ms} ms {where}: arrived by the end", 100 * after.kept_up, 100 * UNCHANGED, " %", at_least=True))
        goals.append(Goal(f"{ms} ms {where}: p99", after.p99_ms, bound, " ms"))
    return [*goals, Goal(f"{where}: memory", found[0].peak_mb, MAX_MB, " MB")]


def newcomers(place: Place, count: int) -> list[Goal]:
    """The first message ever to a handler of the same user, and to another user's, beside `count` that hang."""
    with place.distant() as distant:
        planned = [webhook(MINE, distant.url(10 + number, "hang")) for number in range(count)]
        new = {"the same user": MINE, "another user": OTHER}
        planned += [webhook(user, distant.url(number)) for number, user in enumerate(new.values())]
        with place.serving(planned) as running:
            fill_up(running, range(1, count + 1), HANGING_DELIVERIES)
            time.sleep(SETTLE_IN_SECONDS)
            sent = {who: send(running, [count + 1 + number], user=user) for number, (who, user) in enumerate(new.items())}
            watch = Watch(distant)
            late = {who: watch.late_seconds(*one) for who, one in sent.items()}
    where = f"beside {count:,} that hang"
    return [Goal(f"a new handler of {who} {where}", seconds, 1.0, " s") for who, seconds in late.items()]
