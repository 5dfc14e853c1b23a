"""What clients ask of a cluster's processes, and the handlers that they ask it for."""

from support.cluster import Cluster, Node
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


def asks_to_test(node: Node, handler: int) -> None:
    """Somebody presses Test, on a page of this process."""
    node.process.do(lambda: node.process.spawn(node.test(handler)))


def telegrams(made: Cluster, count: int) -> list[int]:
    """Of one bot, which may start 30 a second; each group one a second and 20 a minute."""
    return [made.server.add_handler("telegram", {"telegram": BOT, "telegram_chat_id": str(number)}) for number in range(1, count + 1)]
