"""Engines that share a store: nothing lost, nothing twice but what was under way, in order, no faster than allowed, whatever dies."""

from functools import partial

import pytest

from support.cluster import Cluster, Node, cluster
from support.requests import BOT, asks_to_test, send, webhooks


class Story:
    """A seeded run: traffic to handlers of all kinds, and whatever may go wrong with the processes meanwhile."""

    def __init__(self, made: Cluster, rate: float, seconds: float) -> None:
        self.made = made
        self.dice = made.world.dice
        self.until = made.world.now + seconds
        self.rate = rate
        self.log: list[str] = []
        add = made.server.add_handler
        self.handlers = webhooks(made, 30)
        self.handlers += [add("telegram", {"telegram": BOT, "telegram_chat_id": str(number)}) for number in range(1, 6)]
        self.handlers += [add("slack", {"slack": f"https://hooks.slack.com/services/T0/B{number}/{BOT[10:]}"}) for number in range(3)]
        hook = "https://discord.com/api/webhooks/12345678901234567{}/" + "Abc_def-" * 8 + "wxyz"
        self.handlers += [add("discord", {"discord": hook.format(number)}) for number in range(5)]
        self.crowd = [add("discord", {"discord": hook.replace("1234", "4321").format(number)}) for number in range(30)]
        self.crowd += [add("telegram", {"telegram": BOT.replace("123", "321"), "telegram_chat_id": str(number)}) for number in range(40)]
        self.crowd += [add("ntfy", {"ntfy": f"https://ntfy.sh/topic{number}"}) for number in range(12)]

    def traffic(self) -> None:
        """Every now and then a request to one of the processes."""
        if self.made.world.now >= self.until:
            return
        accepting = self.made.live("api")
        if accepting:
            node = self.dice.choice(accepting)
            wait = self.dice.choice([0.0] * 9 + [self.dice.uniform(0.5, 8.0)])
            send(node, self.dice.choice(self.handlers), "hello", wait)
        self.made.world.after(self.dice.expovariate(self.rate), self.traffic)

    def fault(self) -> None:
        """Something happens, then nothing for a while."""
        if self.made.world.now >= self.until:
            return
        one = [
            *(self.server_is_away, self.rings_are_lost, self.some_are_cancelled, self.crowd_comes, self.crowd_tests, self.moves),
            *(self.joins, self.joins),
        ]
        sending = self.made.live("worker")
        if len(sending) > 1:
            victim = self.dice.choice(sending)
            one += [partial(what, victim) for what in (self.dies, self.stops, self.leaves, self.is_silent)]
        what = self.dice.choice(one)
        self.log.append(f"{self.made.world.now - 1000:.2f} {getattr(what, 'func', what).__name__}")
        what()
        self.made.world.after(self.dice.uniform(1.0, 6.0), self.fault)

    def dies(self, node: Node) -> None:
        self.made.kill(node)
        self.made.world.after(self.dice.uniform(0.1, 2.0), self.joins)

    def stops(self, node: Node) -> None:
        """And goes on later."""
        node.process.stop(self.dice.uniform(0.5, 7.0))

    def leaves(self, node: Node) -> None:
        node.is_joined = False
        node.process.do(lambda: node.process.spawn(node.leave()))

    def is_silent(self, node: Node) -> None:
        """Nothing goes between it and the server."""
        node.session.away_until = self.made.world.now + self.dice.uniform(0.5, 6.0)

    def joins(self) -> None:
        if len(self.made.live("worker")) < 5:
            self.made.node(self.dice.choice(["all", "worker"]), self.dice.uniform(-10, 10))

    def server_is_away(self) -> None:
        self.made.server.away_until = self.made.world.now + self.dice.uniform(0.1, 5.0)

    def rings_are_lost(self) -> None:
        self.made.server.loses_rings = self.dice.choice([0.0, 0.5, 1.0])

    def some_are_cancelled(self) -> None:
        for job in list(self.made.server.rows.values())[-20:]:
            if self.dice.random() < 0.3:
                self.made.server.cancel(job.delivery.id)

    def crowd_comes(self) -> None:
        """More at once than their paces let out, in one part and in several."""
        accepting = self.made.live("api")
        for handler in self.crowd if accepting else ():
            node, text = self.dice.choice(accepting), self.dice.choice(["hello", "word " * 500])
            for _ in range(self.dice.choice([1, 3])):
                send(node, handler, text)

    def crowd_tests(self) -> None:
        accepting = self.made.live("api")
        for handler in self.crowd if accepting else ():
            asks_to_test(self.dice.choice(accepting), handler)

    def moves(self) -> None:
        """A handler gets another address while something waits for it; some processes hear of it late."""
        made, handler = self.made, self.dice.choice(self.handlers[:30])
        before = made.server.handlers[handler].partition
        accepting = made.live("api")
        if not accepting:
            return
        for _ in range(5):
            self.send_by(accepting, handler, None)
        settings = {"slack": f"https://hooks.slack.com/services/T1/B{int(made.world.now * 1000)}/{BOT[10:]}"}
        made.world.after(0.002, lambda: made.server.change(handler, "slack", settings))
        for _ in range(3):
            made.world.after(self.dice.uniform(0.0, 0.3), lambda: self.send_by(accepting, handler, before))
        for node in made.nodes:
            made.world.after(self.dice.uniform(0.0, 0.5), lambda node=node: node.process.do(self.hears, node, handler))

    def send_by(self, accepting: list[Node], handler: int, partition: int | None) -> None:
        node = self.dice.choice(accepting)
        send(node, handler, partition=partition)

    def hears(self, node: Node, handler: int) -> None:
        node.directory.forget(self.made.server.handlers[handler].row.user_id, handler)


def tell(seed: int, rate: float = 40.0, seconds: float = 30.0) -> tuple[Cluster, Story]:
    with cluster(seed) as made:
        for ahead in (0.0, 8.0, -9.0):
            made.node("all", ahead)
        made.node("api", 3.0)
        made.world.run(5.0)
        story = Story(made, rate, seconds)
        made.errors_of_providers = 0.03
        made.world.after(0.0, story.traffic)
        made.world.after(2.0, story.fault)
        made.world.run(seconds)
        made.errors_of_providers = made.server.loses_rings = 0.0
        made.world.run(1500.0)
    return made, story


def check_story(seed: int, **more: float) -> None:
    made, story = tell(seed, **more)
    try:
        made.check()
    except AssertionError as wrong:
        raise AssertionError(f"{wrong}\n{story.log}") from None


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_nothing_is_lost(seed: int) -> None:
    """Once, but for what was under way where something died; in order; and no faster than allowed."""
    check_story(seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 140))
def test_whatever_happens_for_longer_nothing_is_lost(seed: int) -> None:
    check_story(seed, seconds=90.0)
