"""What is rendered on the event loop is short in every channel; the rest waits its turn, and has a budget."""

import ast
import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace

from support.attempts import Steps
from tocsin.channels import email
from tocsin.channels.contract import AnyChannel, Context, fields_of
from tocsin.channels.registry import CHANNELS
from tocsin.flow import pools
from tocsin.flow.delivery.attempt import Attempt
from tocsin.flow.delivery.rendering import BEGINNING, context_of, renders_quickly
from tocsin.flow.directory import Loaded, load
from tocsin.markup.parse import forget
from tocsin.model import Delivery, Handler, HttpRequest, MailReply, Message, Reason, Refused, Request, Severity, Status
from tocsin.settings import load as load_settings

MAX_CALLS = 8000  # of functions, each of which takes 0.1 us or a little more
SETTINGS = load_settings({"TOCSIN_SMTP_URL": "smtp://127.0.0.1:25", "TOCSIN_EMAIL_FROM": "tocsin@example.com"})
SHAPES = {
    "prose": "The backup of host db1 took 3 minutes. ",
    "lines": "a\n",
    "paragraphs": "a\n\n",
    "hard breaks": "a  \n",
    "list": "- a\n",
    "numbers": "1. a\n",
    "tasks": "- [ ] a\n",
    "headings": "# a\n",
    "quotes": "> - ",
    "bold": "**a** ",
    "stars": "*a",
    "underscores": "a_b ",
    "code": "`a` ",
    "struck": "~~a~~ ",
    "links": "[a](http://b.c) ",
    "images": "![a](http://b.c)\n\n",
    "addresses": "http://b.c/d ",
    "names": "a.b ",
    "mails": "a@b.cc ",
    "mentions": "@a #b ",
    "table": "|a|b|\n|-|-|\n|a|b|\n",
    "html": "<b>&amp;",
    "quotation marks": '"',
    "terminal": "\x1b[31m",
    "Korean": "백업이 실패했습니다. ",
    "Hebrew": "שלום ",
    "emoji": "👩‍👩‍👧 ",
    "flags": "🇰🇷",
    "accents": "a\u0301",
}
AT_ONCE = [name for name, channel in CHANNELS.items() if channel.quick_marks != -1]
_moments = count(1)


def loaded_of(channel: AnyChannel, user_id: int = 1) -> Loaded:
    settings = {name: field.example for name, field in fields_of(channel.settings).items()}
    found = load(Handler(1, user_id, channel.type, "Example", settings, True, 0), SETTINGS)
    return replace(found, channel=channel)


@pytest.mark.parametrize("kind", ["slack", "discord", "google_chat", "microsoft_teams"])
def test_a_channel_knows_whether_it_talks_to_the_provider_itself(kind: str) -> None:
    def is_official(url: str, delivery: Delivery | None) -> bool:
        found = load(Handler(1, 1, kind, "Example", {kind: url}, True, 0), SETTINGS)
        return context_of(found, SETTINGS, 0, "msg_1", delivery=delivery).is_official

    official = fields_of(CHANNELS[kind].settings)[kind].example
    for delivery in (None, Delivery(1, 1, 1, 1, Status.PENDING, 0, 0, 0)):
        assert is_official(official, delivery)
        assert not is_official("https://chat.example.com/hooks/x", delivery)


async def render(loaded: Loaded, message: Message, context: Context) -> Sequence[Request] | Refused:
    """What an attempt makes of it, or why it makes nothing."""
    tried = await trying(loaded, message, context)
    return tried.outcome if isinstance(tried.outcome, Refused) else tried.requests


async def trying(loaded: Loaded, message: Message, context: Context, part: int = 0) -> Attempt:
    return await Steps([MailReply(250, "ok", "final")] if loaded.channel.wire == "mail" else ()).walk(loaded, message, context, part=part)


def context() -> Context:
    return Context("msg_1", 1, 0, SETTINGS, signing_secrets=("whsec_" + "A" * 43 + "=",))


def fresh(text: str, **more: Any) -> Message:
    """One that no cache knows."""
    return Message(text=text, title="Title", severity=Severity.WARNING, at=next(_moments), **more)


def longest(loaded: Loaded, shape: str) -> str:
    """Of the texts of this shape the longest that is rendered at once."""
    low, high = 0, 65_536
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if renders_quickly(loaded, Message((shape * middle)[:middle])) else (low, middle - 1)
    return (shape * low)[:low]


def calls_of(call: Callable[[], object]) -> int:
    counted = [0]

    def profile(_: object, event: str, __: object) -> None:
        counted[0] += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return counted[0]


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_is_rendered_at_once_takes_few_steps_whatever_it_is_made_of(name: str) -> None:
    loaded = loaded_of(CHANNELS[name])
    loaded.channel.render(fresh("warm"), loaded.settings, context())
    fields = tuple((f"{number}", "나@*_" * 10) for number in range(25))
    while not renders_quickly(loaded, Message("a", fields=fields)):
        fields = fields[1:]
    messages = [fresh(longest(loaded, shape)) for shape in SHAPES.values()] + [fresh("a", fields=fields)]
    forget()
    counts = [calls_of(lambda one=one: loaded.channel.render(one, loaded.settings, context())) for one in messages]
    assert max(counts) < MAX_CALLS, dict(zip((*SHAPES, "fields"), counts, strict=True))


@pytest.mark.parametrize("name", AT_ONCE)
def test_an_alert_of_ordinary_length_is_rendered_at_once(name: str) -> None:
    alert = Message("**db1** is down.\n- since 12:00\n- disk full", "Alert", fields=(("host", "db1"), ("disk", "100 %")))
    loaded = loaded_of(CHANNELS[name])
    loaded.channel.render(fresh("warm"), loaded.settings, context())
    assert renders_quickly(loaded, alert)


def first_renderings() -> dict[str, int]:
    """By channel, what the first message that is rendered at once takes; of a process that has rendered nothing yet."""
    calls: dict[str, int] = {}
    for name in AT_ONCE:
        loaded = loaded_of(CHANNELS[name])
        if renders_quickly(loaded, Message("down")):
            calls[name] = calls_of(lambda one=loaded: one.channel.render(fresh("down"), one.settings, context()))
    return calls


def test_nor_does_the_first_message_of_a_process_take_more_steps() -> None:
    code = "from unit.test_rendering import first_renderings; print(first_renderings())"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60)
    calls = ast.literal_eval(done.stdout)
    assert set(AT_ONCE) - set(calls) == {"email"}, done.stderr  # its page is a template that is to be compiled
    assert max(calls.values()) < MAX_CALLS, calls


def test_the_first_mail_of_a_process_is_rendered_in_the_pool() -> None:
    where: list[str] = []

    def noting(message: Message, settings: Any, context: Context) -> Any:
        where.append(threading.current_thread().name)
        return CHANNELS["email"].render(message, settings, context)

    async def main() -> None:
        loaded = loaded_of(replace(CHANNELS["email"], render=noting))
        for _ in range(2):
            await render(loaded, fresh("down"), context())
        await pools.close()

    email._template.cache_clear()
    uvloop.run(main())
    assert where == ["tocsin-rendering", "MainThread"]


def test_nothing_is_rendered_at_once_for_a_channel_that_weighs_every_character() -> None:
    assert [name for name in CHANNELS if name not in AT_ONCE] == ["x"]
    assert not any(renders_quickly(loaded_of(CHANNELS["x"]), Message(text)) for text in ("", "a", "a" * 5000))


def test_what_takes_long_is_rendered_in_the_pool_when_it_is_its_users_turn() -> None:
    where: list[tuple[int, str]] = []
    gate, begun = threading.Event(), threading.Event()

    def channel_of(user_id: int) -> Loaded:
        def noting(message: Message, settings: Any, context: Context) -> Any:
            where.append((user_id, threading.current_thread().name))
            return CHANNELS["slack"].render(message, settings, context)

        return loaded_of(replace(CHANNELS["slack"], render=noting), user_id)

    def hold() -> None:
        begun.set()
        assert gate.wait(20)

    async def main() -> None:
        holding = asyncio.ensure_future(pools.here().rendering.run(0, hold))
        assert await asyncio.to_thread(begun.wait, 20)
        greedy, other, long = channel_of(1), channel_of(2), "- a\n" * 200
        waiting = [asyncio.ensure_future(render(greedy, fresh(long), context())) for _ in range(8)]
        await asyncio.sleep(0)
        waiting.append(asyncio.ensure_future(render(other, fresh(long), context())))
        await render(other, fresh("short"), context())
        assert where == [(2, "MainThread")]
        gate.set()
        await asyncio.gather(holding, *waiting)
        await pools.close()

    uvloop.run(main())
    assert [user for user, _ in where[1:]] == [1, 2] + [1] * 7
    assert {name for _, name in where[1:]} == {"tocsin-rendering"}


# ---------------------------------------------------------------------------------------------------------- the budget


def _for_ever() -> Any:
    while True:
        pass


def rendered(monkeypatch: pytest.MonkeyPatch, render_it: Callable[..., Any], text: str) -> Any:
    async def main() -> Any:
        try:
            return await render(loaded_of(replace(CHANNELS["slack"], render=render_it)), fresh(text), context())
        finally:
            await pools.close()

    monkeypatch.setattr(pools, "BUDGET_SECONDS", 0.05)
    monkeypatch.setattr(pools, "LOOK_SECONDS", 0.01)
    return uvloop.run(main())


def test_a_native_form_over_its_budget_gives_way_to_the_plainest(monkeypatch: pytest.MonkeyPatch) -> None:
    def native_hangs(message: Message, settings: Any, context: Context) -> Any:
        return CHANNELS["slack"].render(message, settings, context) if context.plain else _for_ever()

    [request] = rendered(monkeypatch, native_hangs, "- word\n" * 200)
    assert b"blocks" not in request.body and request.body.count(b"word") == 200


def test_of_a_text_that_is_always_over_its_budget_the_beginning_is_sent_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def long_hangs(message: Message, settings: Any, context: Context) -> Any:
        return CHANNELS["slack"].render(message, settings, context) if len(message.text) < 2 * BEGINNING else _for_ever()

    [request] = rendered(monkeypatch, long_hangs, "- word\n" * 1000)
    assert isinstance(request, HttpRequest)
    assert b"word" in request.body and "… 6,000 more characters" in request.body.decode()


def test_a_cut_form_with_fewer_parts_than_have_arrived_is_not_called_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    def long_hangs(message: Message, settings: Any, context: Context) -> Any:
        return CHANNELS["slack"].render(message, settings, context) if len(message.text) < 2 * BEGINNING else _for_ever()

    async def main() -> Attempt:
        loaded = loaded_of(replace(CHANNELS["slack"], render=long_hangs))
        try:
            return await trying(loaded, fresh("- word\n" * 1000), context(), part=1)
        finally:
            await pools.close()

    monkeypatch.setattr(pools, "BUDGET_SECONDS", 0.05)
    monkeypatch.setattr(pools, "LOOK_SECONDS", 0.01)
    tried = uvloop.run(main())
    assert isinstance(tried.outcome, Refused) and (tried.outcome.reason, tried.outcome.ours, tried.part) == (Reason.INTERNAL, True, 1)
    assert tried.handles == ()


def test_what_can_never_be_rendered_is_a_fault_of_ours_and_the_next_one_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = rendered(monkeypatch, lambda *_: _for_ever(), "- word\n" * 1000)
    assert isinstance(refused, Refused) and (refused.reason, refused.ours) == (Reason.INTERNAL, True)
    [_] = rendered(monkeypatch, CHANNELS["slack"].render, "- word\n" * 100)
