"""Test sends where engines share a store: each at the owner of its handler, in turn with deliveries, in the same windows."""

from support.cluster import Cluster, cluster
from support.requests import BOT, asks_to_test, send, several, telegrams, webhooks
from tocsin.flow.handlers.at_owner import NOBODY
from tocsin.partitions import PARTITIONS


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
    """A Telegram group gets 20 messages in a minute, from all processes together."""
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
    """The owner has the handler in memory as it was before; the user who saved it tests it at once."""
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
