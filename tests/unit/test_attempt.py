"""The steps of an attempt: each once, in order, and nothing that cannot come now."""

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from conftest import run
from support.attempts import OK, Steps, Walked
from tocsin.channels import webhook, x
from tocsin.channels.contract import AnyChannel, Context, Pace, fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.flow import pools
from tocsin.flow.delivery import sending
from tocsin.flow.delivery.attempt import ANSWERED, BEGUN, FAULT_OF_OURS, NO_SLOT, ON_WIRE, RENDERING, STEPS, WAITING, OutOfOrder
from tocsin.flow.delivery.keep import Ending
from tocsin.flow.directory import Loaded, load
from tocsin.flow.pace import Pacer
from tocsin.model import (
    Delivered,
    Delivery,
    Handler,
    HttpReply,
    HttpRequest,
    Later,
    MailReply,
    Message,
    NoReply,
    Notification,
    Reason,
    Refused,
    Reply,
    Request,
    Status,
)
from tocsin.ports.queue import Waiting
from tocsin.settings import load as load_settings

SETTINGS = load_settings({"TOCSIN_SMTP_URL": "smtp://127.0.0.1:25", "TOCSIN_EMAIL_FROM": "tocsin@example.com"})
CONTEXT = Context(key="msg_1", handler_id=1, now=0, service=SETTINGS, signing_secrets=("whsec_" + "A" * 43 + "=",))
MESSAGE = Message("**db1** is down", "Alert", at=1)
REFUSED = HttpReply(400, {}, b"no such block")


def loaded_of(kind: str, **changes: Any) -> Loaded:
    channel: AnyChannel = CHANNELS[kind]
    settings = {name: field.example for name, field in fields_of(channel.settings).items()}
    found = load(Handler(1, 1, kind, "Example", settings, True, 0), SETTINGS)
    return replace(found, channel=replace(channel, **changes), paces=())


def parts(count: int, rendered: list[Context] | None = None) -> Loaded:
    """A handler whose messages are so many requests: slack's verdicts, other forms."""

    def render(message: Message, settings: Any, context: Context) -> Sequence[Request]:
        if rendered is not None:
            rendered.append(context)
        word = "plain" if context.plain else "native"
        return [HttpRequest("https://example.com/", "https://example.com/", f"{word} {number}".encode()) for number in range(count)]

    return loaded_of("slack", render=render)


def bodies(steps: Steps) -> list[bytes]:
    return [request.body for request in steps.sent if isinstance(request, HttpRequest)]


def walked(steps: Steps, loaded: Loaded, **more: Any) -> Walked:
    async def main() -> Walked:
        try:
            return await steps.walk(loaded, MESSAGE, CONTEXT, **more)
        finally:
            await pools.close()

    return run(main())


# ----------------------------------------------------------------------------------------------------------- the order


def test_the_quick_way_is_every_step_without_waiting() -> None:
    steps = Steps()

    async def main() -> None:
        tried = steps.made(loaded_of("webhook"), MESSAGE, CONTEXT)
        tried.start()
        assert steps.told == [RENDERING, ON_WIRE, "goes out"]  # within the call, and without a task
        assert not steps.tasks
        await steps.over.wait()
        assert (tried.outcome, tried.part, tried.state) == (Delivered(), 1, ANSWERED)

    run(main())
    assert steps.told == [RENDERING, ON_WIRE, "goes out", ANSWERED]


def test_what_takes_long_to_render_takes_the_same_steps_and_lets_nothing_overtake_it() -> None:
    steps = Steps()
    tried = walked(steps, loaded_of("slack", quick_marks=-1))
    assert isinstance(tried.outcome, Delivered)
    assert steps.told == [RENDERING, "alone", "not alone", ON_WIRE, "goes out", ANSWERED]


def test_each_part_waits_for_its_turn_without_a_place_and_keeps_its_handle() -> None:
    named = [HttpReply(200, {}, b'{"id": "%d"}' % number) for number in (1, 2, 3)]
    render = parts(3).channel.render
    loaded = replace(loaded_of("discord", render=render), paces=(Pace("discord:1", 1, 0.05),), credential="discord:1")
    steps, pacer = Steps(named), Pacer()
    assert pacer.take("discord:1", loaded.paces, time.monotonic()) == 0.0
    tried = walked(steps, loaded, pacer=pacer)
    assert (tried.part, tried.handles, tried.outcome) == (3, ("1", "2", "3"), Delivered("3"))
    turn = [WAITING, "rests", "resumes", ON_WIRE, "goes out"]
    assert steps.told == [RENDERING, "alone", ON_WIRE, "goes out", *turn, *turn, ANSWERED]


def test_what_has_arrived_is_not_sent_again_and_a_later_refusal_forgets_no_part() -> None:
    steps = Steps([OK, HttpReply(500, {}, b"")])
    tried = walked(steps, parts(4), part=1)
    assert bodies(steps) == [b"native 1", b"native 2"]
    assert (tried.part, tried.handles) == (2, (None,))
    assert isinstance(tried.outcome, Later) and tried.outcome.reason is Reason.SERVER_ERROR


@pytest.mark.parametrize("state", sorted(set(STEPS) - {ON_WIRE}))
def test_an_answer_that_nothing_waits_for_changes_nothing(state: str) -> None:
    steps = Steps()
    tried = steps.made(loaded_of("webhook"), MESSAGE, CONTEXT, state=state)
    with pytest.raises(OutOfOrder):
        tried.replied(OK)
    assert (tried.state, tried.reply, tried.part, steps.over.is_set()) == (state, None, 0, False)


@pytest.mark.parametrize("state", sorted(set(STEPS) - {BEGUN}))
def test_an_attempt_begins_once(state: str) -> None:
    steps = Steps()
    tried = steps.made(loaded_of("webhook"), MESSAGE, CONTEXT, state=state)
    with pytest.raises(OutOfOrder):
        tried.start()
    assert (tried.state, steps.sent) == (state, [])


def test_a_second_answer_changes_nothing() -> None:
    steps = Steps(holds=True)

    async def main() -> None:
        tried = steps.made(loaded_of("webhook"), MESSAGE, CONTEXT)
        with pytest.raises(OutOfOrder):
            tried.replied(OK)
        assert tried.state == BEGUN
        tried.start()
        tried.replied(OK)
        with pytest.raises(OutOfOrder):
            tried.replied(HttpReply(500, {}, b""))
        with pytest.raises(OutOfOrder):
            tried.start()
        assert (tried.outcome, tried.part, len(steps.sent)) == (Delivered(), 1, 1)

    run(main())


# ------------------------------------------------------------------------------------------------------------ only once


@pytest.mark.parametrize("kind", CHANNELS)
def test_a_message_is_rendered_once_for_an_attempt(kind: str) -> None:
    contexts: list[Context] = []

    def render(message: Message, settings: Any, context: Context) -> Sequence[Request]:
        contexts.append(context)
        return CHANNELS[kind].render(message, settings, context)

    steps = Steps([MailReply(250, "ok", "final") if CHANNELS[kind].wire == "mail" else OK])
    walked(steps, loaded_of(kind, render=render))
    assert len(steps.sent) == len(contexts) == 1


@pytest.mark.parametrize(("kind", "module", "name"), [("webhook", webhook, "_sign"), ("x", x, "_authorization")])
def test_a_message_is_signed_once_for_an_attempt(kind: str, module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[object] = []
    sign = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: (signed.append(given), sign(*given))[1])
    steps = Steps([HttpReply(201, {}, b'{"data": {"id": "7"}}')])
    tried = walked(steps, loaded_of(kind))
    assert isinstance(tried.outcome, Delivered)
    assert len(signed) == 1


def test_a_post_that_repeats_another_is_made_to_differ_and_one_over_the_budget_is_not_sent() -> None:
    steps = Steps([HttpReply(201, {}, b'{"data": {"id": "7"}}')], posts="10:42:05")
    tried = walked(steps, loaded_of("x"))
    assert isinstance(tried.outcome, Delivered)
    assert [b"10:42:05" in body for body in bodies(steps)] == [True]
    over = Refused(Reason.BUDGET, "The limit is 1 a day.", ours=True)
    steps = Steps(posts=over)
    assert (walked(steps, loaded_of("x")).outcome, steps.sent) == (over, [])
    assert steps.told == [RENDERING, "alone", ANSWERED]


# ------------------------------------------------------------------------------------------------------ the plain form


def test_a_refused_payload_is_sent_once_more_in_the_plainest_form_from_the_refused_part_on() -> None:
    contexts: list[Context] = []
    steps = Steps([OK, REFUSED, OK])
    tried = walked(steps, parts(2, contexts))
    assert bodies(steps) == [b"native 0", b"native 1", b"plain 1"]
    assert [context.plain for context in contexts] == [False, True]
    assert (tried.outcome, tried.part, tried.refusal, tried.reply) == (Delivered(plain=True), 2, REFUSED, OK)
    assert steps.told[-6:] == [RENDERING, "not alone", WAITING, ON_WIRE, "goes out", ANSWERED]


def test_the_plainest_form_is_tried_once() -> None:
    steps = Steps([REFUSED])
    tried = walked(steps, parts(1))
    assert bodies(steps) == [b"native 0", b"plain 0"]
    assert tried.outcome == Refused(Reason.REJECTED, "400 no such block")


def test_a_refusal_of_what_is_plain_already_is_the_answer_to_the_plainest_form() -> None:
    steps = Steps([REFUSED])
    same = loaded_of("slack", render=lambda *_: [HttpRequest("https://example.com/", "https://example.com/", b"a")])
    assert walked(steps, same).outcome == Refused(Reason.REJECTED, "400 no such block")
    assert len(steps.sent) == 1


# -------------------------------------------------------------------------------------------------------- how it may end


def test_a_stop_while_it_waits_for_its_turn_ends_it_with_what_has_arrived() -> None:
    steps, pacer = Steps(), Pacer()
    loaded = replace(parts(2), paces=(Pace("a", 1, 3600.0),), credential="a")
    assert pacer.take("a", loaded.paces, time.monotonic()) == 0.0

    async def main() -> Walked:
        tried = steps.made(loaded, MESSAGE, CONTEXT, pacer=pacer)
        tried.start()
        while tried.state != WAITING:
            await asyncio.sleep(0)
        (waiting,) = steps.tasks
        waiting.cancel()
        await asyncio.wait_for(steps.over.wait(), 5)
        return tried

    tried = run(main())
    assert (tried.part, len(steps.sent), steps.tasks) == (1, 1, set())
    assert isinstance(tried.reply, NoReply) and (tried.reply.sent, tried.reply.stopped) == (False, True)


def test_a_turn_after_the_deadline_is_not_waited_for() -> None:
    steps, pacer = Steps(), Pacer()
    loaded = replace(parts(1), paces=(Pace("a", 1, 3600.0),), credential="a")
    assert pacer.take("a", loaded.paces, time.monotonic()) == 0.0
    tried = walked(steps, loaded, pacer=pacer, has_turn=False, deadline=time.monotonic() + 30)
    assert tried.outcome is NO_SLOT
    assert (steps.told, steps.sent) == ([RENDERING, WAITING, ANSWERED], [])


def test_an_answer_that_cannot_be_read_and_a_fault_in_a_step_end_it() -> None:
    def broken(*_: object) -> Any:
        raise ValueError("a fault")

    tried = walked(Steps(), loaded_of("slack", classify=broken))
    assert isinstance(tried.outcome, Refused) and (tried.outcome.reason, tried.outcome.ours) == (Reason.INTERNAL, True)

    class Broken(Steps):
        def start(self, *_: object) -> None:
            raise ValueError("a fault")

    tried = walked(Broken(), loaded_of("slack"))
    assert (tried.outcome, tried.reply, tried.part, tried.state) == (FAULT_OF_OURS, None, 0, ANSWERED)


def test_limits_that_cannot_be_read_say_nothing_of_whether_it_arrived() -> None:
    """Or the message would be sent again, and again, though each of them arrives."""

    def broken(*_: object) -> float:
        raise ValueError("a fault")

    tried = walked(Steps(), loaded_of("slack", rest_seconds=broken))
    assert isinstance(tried.outcome, Delivered) and (tried.reply, tried.part) == (OK, 1)


@pytest.mark.parametrize(
    ("reply", "status", "word"), [(OK, Status.DELIVERED, "delivered"), (HttpReply(500, {}, b"no"), Status.PENDING, "later")]
)
def test_an_answer_that_cannot_be_shown_changes_nothing_of_what_arrived(
    monkeypatch: pytest.MonkeyPatch, reply: Reply, status: Status, word: str
) -> None:
    def shown(*replies: object) -> tuple[None, None]:
        if replies[:2] != (None, None):
            raise ValueError("a fault")
        return None, None

    monkeypatch.setattr(sending, "shown_answer", shown)
    endings: list[Ending] = []
    back: list[int] = []

    class Place(Steps):
        def came_back(self, how: int) -> None:
            back.append(how)
            self.over.set()

    async def main() -> None:
        place = Place([reply])
        rooms: Any = sending.Rooms(Any, SimpleNamespace(keep=endings.append, ledger=SimpleNamespace(begin=lambda *_: 3)), SETTINGS)  # pyright: ignore[reportArgumentType]
        delivery = Delivery(1, 1, 1, 1, Status.PENDING, 0, 0, 0)
        job = Waiting(delivery, Notification(1, 1, MESSAGE, None, None))
        sending.Sending(loaded_of("webhook"), MESSAGE, CONTEXT, 0, place, Pacer(), place, place.tasks, job=job, rooms=rooms).start()  # pyright: ignore[reportArgumentType]
        await asyncio.wait_for(place.over.wait(), 20)

    run(main())
    [ending], [_] = endings, back
    assert ending.decision.delivery.status is status
    assert ending.attempt is not None and (ending.attempt.outcome, ending.attempt.response) == (word, None)


@pytest.mark.parametrize("reply", [NoReply(Reason.CONNECT, sent=False), HttpReply(500, {}, b"")])
def test_any_other_answer_ends_it(reply: Reply) -> None:
    tried = walked(Steps([reply]), loaded_of("webhook"))
    assert isinstance(tried.outcome, Later) and (tried.reply, tried.part, tried.handles) == (reply, 0, ())
