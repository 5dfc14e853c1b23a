"""What goes wrong, and when: a pure function of the seed, so that a failure can be repeated."""

import random
from typing import Literal

from msgspec import Struct

Kind = Literal["kill", "point", "term", "freeze", "full", "damage", "clock", "copy", "restore", "server", "stall", "sessions"]

KINDS: tuple[Kind, ...] = ("kill", "point", "term", "freeze", "full", "damage", "clock", "restore")
LEFT_OUT = 2  # kinds of each seed at most: rare combinations of few kinds are met more often so
SERVER_KINDS: tuple[Kind, ...] = ("kill", "server", "point", "term", "freeze", "clock", "stall", "sessions")
"""Where the store is on a PostgreSQL server, which is disturbed too. The first two are in every plan, and twice in each round."""
LAST_QUIET_SECONDS = 5.0  # before the load ends
POINTS = (  # of `tocsin.cli.selftest.points`, those to which plain load leads
    "before-accept-commit",
    "after-accept-commit",
    "after-wake-up",
    "after-connect",
    "after-body",
    "after-answer",
    "before-outcome-commit",
    "after-outcome-commit",
    "between-parts",
    "mail-connected",
    "mail-last-dot",
)
FAR_DAYS = 40  # longer than everything is kept


class Step(Struct, frozen=True):
    """One disturbance. `after`: seconds since the one before ended. `lasts`: seconds, of what lasts. `by`: what else it needs to know.

    kill: `by` kills follow within a start each, after `lasts` seconds.  point: `by` is the point and the visit at which it dies.
    freeze, full: `by` says how it ends meanwhile, if it does.  damage: `by` names what is damaged; `stopped`: before a start instead
    of under it.  clock: `by` is the offset in seconds; the far one goes back by itself after `lasts`.  term: the offset that the clock
    gets while it is down, if any.  restore: `by` is "command" or "by hand".  server: it ends as `by` says ("both": it is
    killed, and the service before it is back), and is away for `lasts` seconds.  stall: it does nothing for so long; `killed`: meanwhile
    the service dies.  sessions: all of its sessions are ended.
    """

    kind: Kind
    after: float
    lasts: float = 0.0
    by: str = ""

    def __str__(self) -> str:
        return f"+{self.after:.2f} {self.kind}" + (f" {self.by}" if self.by else "") + (f" {self.lasts:.2f} s" if self.lasts else "")


def plan(seed: int, seconds: float, *, has_server: bool = False) -> list[Step]:
    """Disturbances for that many seconds of load. What is restored was copied before."""
    dice = random.Random(seed)  # to be repeated
    kinds = [*SERVER_KINDS, *SERVER_KINDS[:2]] if has_server else [*KINDS]
    for left_out in dice.sample(SERVER_KINDS[2:] if has_server else KINDS, dice.randint(0, LEFT_OUT)):
        kinds.remove(left_out)
    steps: list[Step] = []
    passed, has_copy, offset = 0.0, False, 0
    waiting: list[Kind] = []
    while True:
        if not waiting:  # each kind once in every round, in another order
            waiting = dice.sample(kinds, len(kinds))
        kind = waiting.pop()
        if kind == "restore" and not has_copy:
            kind = "copy"
            waiting.insert(dice.randint(0, len(waiting)), "restore")
        step = _step(kind, dice, offset)
        if kind in {"clock", "term"} and step.by and not step.lasts:
            offset = int(step.by)
        passed += step.after + _takes(step)
        if passed > seconds - LAST_QUIET_SECONDS:
            return steps
        has_copy = has_copy or kind == "copy"
        steps.append(step)


def plan_of_kills(seed: int, kills: int, *, has_server: bool) -> list[Step]:
    """`kill -9` and nothing else: so many of the service, and as many of its database server. One in five of these is of both."""
    dice = random.Random(seed)  # to be repeated
    both = kills // 5 if has_server else 0
    steps = [Step("kill", _soon(dice), by="0") for _ in range(kills - both)]
    if has_server:
        steps += [Step("server", _soon(dice), dice.uniform(0.1, 3.0), by="both" if number < both else "killed") for number in range(kills)]
    dice.shuffle(steps)
    return steps


def _soon(dice: random.Random) -> float:
    """After a start: at once, or once the load is there again."""
    return dice.choice((dice.uniform(0.0, 0.3), dice.uniform(0.3, 3.0)))


def _step(kind: Kind, dice: random.Random, offset: int) -> Step:
    after = _soon(dice)
    match kind:
        case "kill":
            return Step(kind, after, dice.uniform(0.05, 1.2), by=str(dice.choice((0, 0, 1, 2))))
        case "point":
            return Step(kind, after, by=f"{dice.choice(POINTS)}:{dice.choice((1, 3, 10, 30))}")
        case "freeze":
            return Step(kind, after, dice.uniform(0.2, 4.0), by=dice.choice(("", "", "killed")))
        case "full":
            return Step(kind, after, dice.uniform(0.5, 4.0), by=dice.choice(("", "", "killed", "stopped")))
        case "damage":
            return Step(
                kind, after, dice.uniform(1.0, 4.0), by=dice.choice(("attempts", "anything", "attempts stopped", "anything stopped"))
            )
        case "clock":
            return _clock_step(after, dice, offset)
        case "restore":
            return Step(kind, after, by=dice.choice(("command", "command killed", "by hand")))
        case "term":
            return Step(kind, after, by=dice.choice(("", "", str(_another_offset(dice, offset)))))
        case "server":
            return Step(kind, after, dice.uniform(0.1, 3.0), by=dice.choice(("killed", "killed", "immediate", "fast")))
        case "stall":
            return Step(kind, after, dice.uniform(0.2, 6.0), by=dice.choice(("", "", "killed")))
        case "copy" | "sessions":
            return Step(kind, after)


def _clock_step(after: float, dice: random.Random, offset: int) -> Step:
    if dice.random() < 0.2:
        return Step("clock", after, dice.uniform(1.0, 4.0), by=str(offset + FAR_DAYS * 86_400))
    return Step("clock", after, by=str(_another_offset(dice, offset)))


def _another_offset(dice: random.Random, offset: int) -> int:
    """Within what an Idempotency-Key lasts."""
    to = offset + dice.choice((-1, 1, 1)) * dice.choice((5, 90, 660, 3600, 7200))
    return max(-10_800, min(to, 36_000))


def _takes(step: Step) -> float:
    """About how long it takes: a start is about two seconds."""
    restarts = {"kill": 1, "point": 3, "term": 2, "restore": 2, "damage": 1, "server": 1}
    restarts |= dict.fromkeys(("full", "freeze", "stall"), bool(step.by))
    starts = restarts.get(step.kind, 0) + (int(step.by) if step.kind == "kill" else 0)
    return step.lasts + 1.5 * starts
