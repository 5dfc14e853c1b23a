"""Engines that share a store: nothing lost, nothing twice but what was under way, in order, no faster than allowed, whatever dies."""

from collections.abc import Sequence
from functools import partial

import pytest

from support.cluster import Cluster, Node, cluster
from tocsin.flow.handlers.at_owner import NOBODY
from tocsin.model import Delivery
from tocsin.partitions import PARTITIONS

BOT = "123456789:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQr"


def webhooks(made: Cluster, count: int) -> list[int]:
    return [made.server.add_handler("webhook", {"webhook": f"https://example.com/{number}"}) for number in range(count)]


def several(made: Cluster, count: int) -> list[Node]:
    nodes = [made.node() for _ in range(count)]
    made.world.run(5.0)
    assert sum(node.engine.partitions for node in nodes) == PARTITIONS
    return nodes


def send(node: Node, handler: int, text: str = "hello", wait: float = 0.0, partition: int | None = None) -> None:
    """A request to this process, if it lives."""
    node.process.do(lambda: node.process.spawn(node.accept(handler, text, wait, partition)))


def traffic(made: Cluster, handlers: list[int], seconds: float, rate: float = 100.0) -> None:
    """To all of the processes that live."""
    for number in range(int(seconds * rate)):
        made.world.after(number / rate, lambda: send(made.world.dice.choice(made.live("api")), made.world.dice.choice(handlers)))


def test_one_alone_hands_over_in_memory_and_several_do_not() -> None:
    with cluster(1) as made:
        [node] = several(made, 1)
        handlers = webhooks(made, 5)
        traffic(made, handlers, 1.0)
        made.world.run(2.0)
        assert node.engine.is_alone
        rung = made.server.rings
        made.node()
        made.world.run(3.0)
        assert not node.engine.is_alone and made.server.rings == rung
        traffic(made, handlers, 1.0)
        made.world.run(2.0)
        assert made.server.rings > rung
        assert made.check() == {"rows": 200, "requests": 200, "repeats": 0}


def test_partitions_of_the_dead_move_in_five_seconds_of_those_who_leave_in_one_and_to_those_who_join_in_three() -> None:
    with cluster(2) as made:
        first, second, third = several(made, 3)
        traffic(made, webhooks(made, 20), 20.0)
        made.kill(first)
        made.world.run(5.0)
        assert second.engine.partitions + third.engine.partitions == PARTITIONS
        second.process.do(lambda: second.process.spawn(second.leave()))
        made.world.run(1.0)
        assert third.engine.partitions == PARTITIONS
        fourth = made.node()
        made.world.run(3.0)
        assert third.engine.partitions == fourth.engine.partitions == PARTITIONS // 2
        made.world.run(60.0)
        assert made.check()["rows"] == 2000


def test_who_is_two_versions_away_from_those_that_are_there_does_not_join_them() -> None:
    with cluster(13) as made:
        nodes = several(made, 2)
        traffic(made, webhooks(made, 20), 4.0)
        far, near = made.node(version="1.4.1"), made.node(version="1.3.0")
        made.world.run(4.0)
        assert far.refusal.startswith("This is tocsin 1.4.1, and all-") and not far.process.is_alive
        assert near.is_joined and near.engine.partitions > 0 and far.engine.partitions == 0
        for node in [*nodes, near]:
            made.kill(node)
        late = made.node(version="1.4.1")  # nobody has removed the dead, so it looks for itself that they are
        made.world.run(5.0)
        assert late.is_joined and late.engine.partitions == PARTITIONS
        made.world.run(60.0)
        assert made.check()["rows"] == 400


def test_nobody_sends_before_every_other_has_seen_it() -> None:
    """A worker that sees nobody else hands over in memory, so it must have been seen before it is told of what others accept."""
    with cluster(14) as made:
        [first] = several(made, 1)
        second = made.node()
        made.world.run(3.0)
        first.process.stop(2.5)
        late = made.node()
        made.world.run(2.0)
        assert second.is_joined and not late.is_joined and late.engine.fence() > 0 and late.engine.partitions == 0
        made.world.run(1.5)
        assert late.is_joined and late.engine.fence() == 0


@pytest.mark.parametrize("seed", range(25, 30))
def test_others_know_at_once_that_a_worker_leaves_and_need_not_wait_for_its_last_answers(seed: int) -> None:
    """Its own next beat and then theirs would take a second."""
    with cluster(seed) as made:
        nodes = several(made, 2)
        made.answer_seconds = (2.5, 2.5)
        handlers = webhooks(made, 20)
        for handler in handlers:
            send(nodes[0], handler)
        made.world.run(made.world.dice.uniform(1.0, 1.5))
        nodes[0].process.do(lambda: nodes[0].process.spawn(nodes[0].leave()))
        made.world.run(0.7)
        assert PARTITIONS - len(handlers) <= nodes[1].engine.partitions < PARTITIONS
        made.world.run(10.0)
        assert nodes[1].engine.partitions == PARTITIONS
        assert made.check() == {"rows": 20, "requests": 20, "repeats": 0}


def test_a_rolling_restart_repeats_nothing() -> None:
    with cluster(3) as made:
        nodes = several(made, 3)
        traffic(made, webhooks(made, 20), 40.0)
        for node in nodes:
            made.node()
            made.world.run(4.0)
            node.is_joined = False
            node.process.do(node.process.spawn, node.leave())
            made.world.run(6.0)
            assert not node.process.is_alive
        made.world.run(60.0)
        assert made.check()["repeats"] == 0


def test_of_a_stopped_process_that_goes_on_nothing_more_is_sent() -> None:
    """Others have its partitions by then: what it had in memory, and further parts of what it had begun, are theirs."""
    with cluster(4) as made:
        nodes = several(made, 3)
        hook = "https://discord.com/api/webhooks/12345678901234567{}/" + "Abc_def-" * 8 + "wxyz"
        handlers = [made.server.add_handler("discord", {"discord": hook.format(number)}) for number in range(10)]
        for handler in handlers:
            for _ in range(8):
                send(nodes[0], handler, "word " * 1200)
        made.world.run(3.0)
        nodes[1].process.stop(8.0)
        nodes[2].process.stop(4.0)
        made.world.run(200.0)
        assert nodes[1].engine.times_fenced == nodes[2].engine.times_fenced == 1
        assert nodes[0].engine.partitions < PARTITIONS // 2
        made.check()


def test_a_handler_whose_credential_changes_while_a_thousand_wait_is_sent_to_in_order_and_once() -> None:
    with cluster(5) as made:
        nodes = several(made, 3)
        [handler] = webhooks(made, 1)
        made.answer_seconds = (0.2, 0.4)
        for _ in range(1000):
            send(nodes[0], handler)
        made.world.run(0.5)
        before = made.server.handlers[handler].partition
        made.server.change(handler, "slack", {"slack": f"https://hooks.slack.com/services/T0/B0/{BOT[10:]}"})
        assert made.server.handlers[handler].partition != before
        for number, node in enumerate(nodes):
            send(node, handler, partition=before)  # it has not heard of that yet
            made.world.after(0.1 * number, lambda node=node: node.process.do(node.directory.forget, 2, handler))
        made.world.run(1.0)
        send(nodes[1], handler)
        made.world.run(1100.0)
        assert made.check() == {"rows": 1004, "requests": 1004, "repeats": 0}


def test_what_is_cancelled_before_its_claim_is_not_sent() -> None:
    with cluster(6) as made:
        nodes = several(made, 2)
        handlers = webhooks(made, 5)
        traffic(made, handlers, 2.0)
        claim, cancelled = made.server.claim, set[int]()

        def claiming(worker_id: int, at: int, deliveries: Sequence[Delivery]) -> set[int] | None:
            for delivery in deliveries:
                if made.world.dice.random() < 0.2 and delivery.attempt_count == 0:
                    made.server.cancel(delivery.id)
                    cancelled.add(delivery.id)
            return claim(worker_id, at, deliveries)

        made.server.claim = claiming
        made.world.run(20.0)
        assert nodes and len(cancelled) > 20
        assert cancelled.isdisjoint(one.delivery_id for one in made.sent)
        assert made.check() == {"rows": 200, "requests": 200 - len(cancelled), "repeats": 0}


def asks_to_test(node: Node, handler: int) -> None:
    """Somebody presses Test, on a page of this process."""
    node.process.do(lambda: node.process.spawn(node.test(handler)))


def telegrams(made: Cluster, count: int) -> list[int]:
    """Of one bot, which may start 30 a second; each group one a second and 20 a minute."""
    return [made.server.add_handler("telegram", {"telegram": BOT, "telegram_chat_id": str(number)}) for number in range(1, count + 1)]


def statuses(made: Cluster) -> list[str]:
    """Of the tests that were answered; or why nothing was sent."""
    return [one if isinstance(one, str) else one.status for one in made.trials]


def delivered(made: Cluster) -> int:
    return statuses(made).count("delivered")


def test_a_test_takes_its_turn_at_the_owner_whichever_process_is_asked() -> None:
    with cluster(7) as made:
        nodes = several(made, 2)
        nodes.append(made.node("api"))
        made.world.run(3.0)
        [handler] = telegrams(made, 1)
        for _ in range(5):
            send(nodes[0], handler)
        for node in nodes:
            asks_to_test(node, handler)
        made.world.run(1.0)
        assert len(made.sent) + len(made.tested) < 8, "the group's pace leaves no room for all at once"
        made.world.run(40.0)
        [owner] = {one.node for one in [*made.sent, *made.tested]}
        assert owner is not nodes[2] and delivered(made) == 3 and not made.server.asks
        made.check()


def test_a_test_that_waits_goes_with_its_partition() -> None:
    """The owner leaves, or others join: what waited for its turn there waits at the next owner, in the same windows."""
    with cluster(8) as made:
        nodes = several(made, 2)
        api = made.node("api")
        made.world.run(3.0)
        handlers = [made.server.add_handler("slack", {"slack": f"https://hooks.slack.com/services/T0/B{n}/{BOT[10:]}"}) for n in range(12)]
        for handler in handlers:
            for _ in range(6):
                asks_to_test(api, handler)
        made.world.run(1.5)
        made.node("worker")
        nodes[0].is_joined = False
        nodes[0].process.do(nodes[0].process.spawn, nodes[0].leave())
        made.world.run(60.0)
        assert {one.node for one in made.tested if one.at < 1011} != {one.node for one in made.tested if one.at > 1015}
        assert delivered(made) == len(made.tested) == 72 and not made.server.asks
        made.check()


def test_tests_count_in_the_windows_of_who_takes_over_from_the_dead() -> None:
    """A Telegram group gets 20 messages in a minute, whoever sends them."""
    with cluster(12) as made:
        nodes = several(made, 2)
        [handler] = telegrams(made, 1)
        for _ in range(20):
            asks_to_test(nodes[0], handler)
        made.world.run(25.0)
        [owner] = {one.node for one in made.tested}
        made.kill(owner)
        [other] = [node for node in nodes if node is not owner]
        for _ in range(20):
            send(other, handler)
        made.world.run(20.0)
        assert delivered(made) >= 20 and other.engine.partitions == PARTITIONS
        made.world.run(120.0)
        assert made.check()["rows"] == 20


def test_of_a_test_whose_owner_dies_nobody_claims_to_know_whether_it_went_out() -> None:
    with cluster(9) as made:
        nodes = several(made, 3)
        api = made.node("api")
        made.world.run(3.0)
        made.answer_seconds = (2.0, 2.0)
        [handler] = telegrams(made, 1)
        asks_to_test(api, handler)
        made.world.run(1.0)
        [sent] = made.tested
        made.kill(sent.node)
        made.world.run(15.0)
        assert statuses(made) == ["unknown"] and len(made.tested) == 1
        [other, _] = [node for node in nodes if node is not sent.node]
        partition = made.server.handlers[handler].partition
        owner = next(node for node in nodes if node.engine.worker_id == other.engine.owner(partition))
        made.kill(owner)
        asks_to_test(api, handler)  # it is not known yet that the owner is dead: nobody reads the question, so the next owner is asked
        made.world.run(15.0)
        assert statuses(made) == ["unknown", "delivered"] and len(made.tested) == 2 and not made.server.asks
        made.check()


def test_a_test_that_nobody_can_send_says_so() -> None:
    with cluster(10) as made:
        api = made.node("api")
        made.world.run(3.0)
        [handler] = webhooks(made, 1)
        asks_to_test(api, handler)
        made.world.run(31.0)
        assert made.trials == [NOBODY] and not made.tested
        asks_to_test(api, handler)
        made.node("worker")
        made.world.run(10.0)
        assert delivered(made) == 1


def test_a_test_is_of_what_was_saved_last() -> None:
    """The owner has the handler in memory as it was before; whoever saved it tests it at once."""
    with cluster(11) as made:
        nodes = several(made, 2)
        [handler] = webhooks(made, 1)
        for node in nodes:
            asks_to_test(node, handler)
        made.world.run(1.0)
        made.server.change(handler, "webhook", {"webhook": "https://changed.example.com/"})
        [saved_at] = [node for node in nodes if node is not made.tested[0].node]
        saved_at.process.do(saved_at.directory.forget, 2, handler)
        asks_to_test(saved_at, handler)
        made.world.run(1.0)
        assert "https://changed.example.com/" in str(made.trials[-1])


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
