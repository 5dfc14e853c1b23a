"""Who does what is being done: a request or a command says so once, and the store writes it beside each change that the audit log names."""

import os
import pwd
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, TypeAlias

from msgspec import Struct

Via: TypeAlias = Literal["page", "api", "command", "service"]
"""What it was done through. "service": by itself, such as at its start."""


class Actor(Struct, frozen=True):
    """`user_id`: None if that is not a user, or not known. `name`: who else it is, such as who runs a command. `key_id`: their API key."""

    via: Via = "service"
    user_id: int | None = None
    key_id: int | None = None
    address: str = ""
    name: str = ""


SERVICE = Actor()
_actor: ContextVar[Actor] = ContextVar("actor", default=SERVICE)


def now() -> Actor:
    """Who acts in this context, such as one request."""
    return _actor.get()


def act_as(actor: Actor) -> None:
    """Until this context ends."""
    _actor.set(actor)


@contextmanager
def acting(actor: Actor) -> Generator[None, None, None]:
    """Meanwhile it is this one."""
    before = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(before)


def commander() -> Actor:
    """Who runs this command: the user of the system, also behind sudo."""
    name = os.environ.get("SUDO_USER", "")
    if not name:
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # as in containers
            name = f"uid {os.getuid()}"
    return Actor("command", name=name[:100])
