"""Engines that share a store: who sends for what, and when; nothing twice, and in order, as processes come and go."""

from collections.abc import Sequence

import pytest

from support.cluster import cluster
from support.requests import BOT, send, several, traffic, webhooks
from tocsin.engine.sweeping import FIRST
from tocsin.model import Delivery
from tocsin.partitions import PARTITIONS


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


def test_what_is_due_first_in_partitions_that_were_taken_is_looked_for_before_all_the_rest() -> None:
    with cluster(14) as made:
        several(made, 1)
        assert made.server.looks[:2] == [FIRST, None]
        handlers = webhooks(made, 5)
        traffic(made, handlers, 1.0)
        made.world.run(120.0)
        assert set(made.server.looks[2:]) == {None}, "once only"
        assert made.check()["rows"] == 100


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
