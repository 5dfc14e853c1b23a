"""An attempt among rooms that a test sees into: what it sends is kept, and answered as the test says."""

import asyncio
from collections.abc import Iterable
from typing import Any

from tocsin.channels.contract import Context
from tocsin.flow.delivery.attempt import STEPS, Attempt
from tocsin.flow.directory import Loaded
from tocsin.flow.pace import Pacer
from tocsin.model import HttpReply, Message, Refused, Reply, Request
from tocsin.net.wires import Sender

OK = HttpReply(200, {}, b"ok")


class Walked(Attempt[Any], kw_only=True, eq=False):
    """Its steps, in order, in `steps.told`; each is one that the table allows."""

    steps: "Steps"

    def goes_out(self) -> None:
        self.steps.told.append("goes out")

    async def look_up_posts(self) -> Refused | str:
        await asyncio.sleep(0)
        return self.steps.posts

    def ended(self) -> None:
        self.steps.over.set()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state":
            assert value in STEPS[self.state], f"{self.state} became {value}"
            self.steps.told.append(value)
        super().__setattr__(name, value)


class Steps:
    """The wires, the place and whom the attempt is made for."""

    def __init__(self, replies: Iterable[Reply] = (), *, posts: Refused | str = "", holds: bool = False) -> None:
        """`replies`: what is answered, the last of them to all that follows. `posts`: what `look_up_posts` finds. `holds`: the
        answers come when the test calls `answer`."""
        self._replies = list(replies) or [OK]
        self.posts = posts
        self._holds = holds
        self.told: list[str] = []
        self.sent: list[Request] = []
        self.over = asyncio.Event()
        self.on_wire = asyncio.Event()
        self.tasks: set[asyncio.Task[Any]] = set()

    def start(self, request: Request, sender: Sender) -> None:
        sender.goes_out()
        self.sent.append(request)
        self._replied = sender.replied
        self.on_wire.set()
        if not self._holds:
            asyncio.get_running_loop().call_soon(self.answer)

    def answer(self) -> None:
        self._replied(self._replies.pop(0) if len(self._replies) > 1 else self._replies[0])

    def rest(self) -> None:
        self.told.append("rests")

    async def resume(self) -> None:
        self.told.append("resumes")

    def alone(self, is_alone: bool) -> None:
        self.told.append("alone" if is_alone else "not alone")

    def made(self, loaded: Loaded, message: Message, context: Context, *, part: int = 0, pacer: Pacer | None = None, **more: Any) -> Walked:
        return Walked(loaded, message, context, part, self, pacer or Pacer(), self, self.tasks, steps=self, **more)

    async def walk(self, loaded: Loaded, message: Message, context: Context, **more: Any) -> Walked:
        """The attempt, once it is over."""
        tried = self.made(loaded, message, context, **more)
        tried.start()
        await asyncio.wait_for(self.over.wait(), 20)
        return tried
