"""What rendering costs against parsing, as medians over a corpus of notifications as they are sent in practice."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from statistics import median

from msgspec import Struct
from msgspec.structs import replace
from tests.corpus import CORPUS

from tocsin.channels.contract import AnyChannel, Context, HandlerSettings, fields_of, settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.markup.parse import parse
from tocsin.model import Message
from tocsin.settings import load

ROUNDS = 7  # of each the quickest counts: what is slower was disturbed


class Rendering(Struct):
    """Of one channel: seconds for a notification, and how many times its parse."""

    type: str
    seconds: float
    of_parse: float


def measure() -> list[Rendering]:
    """Of all channels. Nothing is taken from a cache, but the parsed text."""
    parses = {name: _quickest(functools.partial(parse.__wrapped__, message.text)) for name, message in CORPUS.items()}
    return [_measured(channel, parses) for channel in CHANNELS.values()]


def _measured(channel: AnyChannel, parses: dict[str, float]) -> Rendering:
    settings = settings_of(channel, {name: field.example for name, field in fields_of(channel.settings).items()})
    context = Context("msg_1", 1, 0, load({}), signing_secrets=("whsec_" + "A" * 43 + "=",))
    found: dict[str, float] = {}
    for name, message in CORPUS.items():
        parse(message.text)
        # Another moment each time, so that no rendering is found in the cache.
        fresh = (replace(message, at=moment) for moment in itertools.count(1))
        found[name] = _quickest(functools.partial(_render_next, channel, fresh, settings, context))
    return Rendering(channel.type, median(found.values()), median(found[name] / parses[name] for name in found))


def _render_next(channel: AnyChannel, messages: Iterator[Message], settings: HandlerSettings, context: Context) -> None:
    channel.render(next(messages), settings, context)


def _quickest(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
