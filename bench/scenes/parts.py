"""Large and long messages: what they take in memory, and that waiting for a pace or for a next part is not being on the wire."""

import time
from itertools import groupby, pairwise

from bench.distant import Distant
from bench.filling import MINE, Planned, webhook
from bench.machine import forget_peak, peak_bytes
from bench.messages import item
from bench.scenes.stage import Goal, Place, send
from bench.service import Service

HANGING, TEXT_BYTES = 3000, 60_000
LOOK_SECONDS = 22.0  # longer than any attempt
MAX_LARGE_MB = 200.0
GROUPS, GROUP_MESSAGES = 100, 9
MESSAGES, ANSWER_MS = 80, 250
PACED_AFTER_SECONDS = 21.0  # by then each group has had the 20 messages that it may have in a minute, in parts
TOKEN = "abcdefghijklmnopqrstuvwxyz0123456789"
LONG_MESSAGES = 3


def long_to_hanging(place: Place) -> list[Goal]:
    """3,000 receivers that hang and one text of 60 kB for all of them."""
    with (
        place.distant() as distant,
        place.serving([webhook(MINE, distant.url(number, "hang")) for number in range(HANGING)]) as running,
    ):
        forget_peak(running.pid)
        send(running, range(1, HANGING + 1), "y" * TEXT_BYTES)
        time.sleep(LOOK_SECONDS)
        running.check_alive()
        peak, connections = peak_bytes(running.pid) / 1e6, distant.seen().peak_connections
    place.say(f"  {connections:,} connections at the most")
    return [Goal(f"memory with {HANGING:,} that hang and a text of {TEXT_BYTES // 1000} kB", peak, MAX_LARGE_MB, " MB")]


def beside_paced_groups(place: Place) -> list[Goal]:
    """80 messages to a webhook of 250 ms, alone and while 100 Telegram groups wait for their pace within a message."""
    with place.distant() as distant:
        planned = [webhook(MINE, distant.url(1, wait_ms=ANSWER_MS)), *(_group(number) for number in range(1, 1 + GROUPS))]
        with place.serving(planned, {"TOCSIN_TELEGRAM_API_URL": distant.telegram_url}) as running:
            alone = _seconds(running, distant)
            texts = [{"message": "word " * 2000, "handlers": [1 + group]} for _ in range(GROUP_MESSAGES) for group in range(1, 1 + GROUPS)]
            running.call("POST", "/api/notifications/batch", {"notifications": texts})
            time.sleep(PACED_AFTER_SECONDS)
            beside = _seconds(running, distant)
    place.say(f"  alone {alone:.2f} s, beside {GROUPS} groups {beside:.2f} s")
    return [Goal(f"{MESSAGES} messages to a webhook beside {GROUPS} paced groups", beside, 1.5 * alone + 0.5, " s")]


def _group(number: int, bot: int | None = None) -> Planned:
    return Planned(MINE, "telegram", {"telegram": f"{bot or number}:{TOKEN}", "telegram_chat_id": f"-100{number:07d}"})


def _seconds(running: Service, distant: Distant) -> float:
    distant.take()
    began = time.time_ns()
    texts = [item(number, 1) for number in range(MESSAGES)]
    wanted = {one["id"] for one in running.call("POST", "/api/notifications/batch", {"notifications": texts})["data"]}
    arrived: dict[int, int] = {}
    ends_at = time.monotonic() + 30
    while len(arrived) < MESSAGES and time.monotonic() < ends_at:
        arrived.update((one.id, one.at) for one in distant.take() if one.id in wanted and one.tag == 1)
        time.sleep(0.02)
    return (max(arrived.values()) - began) / 1e9 if len(arrived) == MESSAGES else float("inf")


def order(place: Place) -> list[Goal]:
    """Three messages of three parts each in one batch, to a Discord webhook and to a Telegram chat: each is sent whole before the next."""
    with place.distant() as distant:
        planned = [Planned(MINE, "discord", {"discord": distant.url(7)}), _group(9)]
        with place.serving(planned, {"TOCSIN_TELEGRAM_API_URL": distant.telegram_url}) as running:
            texts = [
                {"message": f"#{number} word " * 1100, "handlers": [handler]}
                for handler in (1, 2)
                for number in range(1, 1 + LONG_MESSAGES)
            ]
            running.call("POST", "/api/notifications/batch", {"notifications": texts})
            running.wait_until_settled(40)
            arrived = distant.take()
    goals: list[Goal] = []
    for what, tag in (("Discord", 7), ("Telegram", 9)):
        numbers = [one.id for one in arrived if one.tag == tag]
        place.say(f"  {what}: {' '.join(map(str, numbers))}")
        turns = [number for number, _ in groupby(numbers)]
        goals.append(Goal(f"messages to {what} that were broken into", len(turns) - LONG_MESSAGES if numbers else 99, 0))
        goals.append(Goal(f"messages to {what} out of order", sum(a > b for a, b in pairwise(turns)), 0))
    return goals
