"""The rooms of the flow as one thing that the API, the pages and the commands are given."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from tocsin.flow.accept import Accepting
from tocsin.flow.access import Access
from tocsin.flow.accounts import Accounts
from tocsin.flow.deliveries import Deliveries
from tocsin.flow.handlers import Handlers
from tocsin.flow.preview import Previews
from tocsin.flow.trial import Trials
from tocsin.observe import Metrics
from tocsin.settings import Settings


class Pulse(Struct, frozen=True):
    """How it goes: deliveries that are not settled, and for how long the oldest due one has been waiting, in seconds."""

    waiting: int
    oldest_seconds: float


class Service(Struct, frozen=True):
    """`unready` gives what keeps the service from working, one sentence each; empty: ready. `complaints`: what else its operator is to
    know, such as a mail server that fails."""

    settings: Settings
    access: Access
    handlers: Handlers
    accepting: Accepting
    deliveries: Deliveries
    trials: Trials
    previews: Previews
    metrics: Metrics
    unready: Callable[[], list[str]]
    complaints: Callable[[], list[str]]
    accounts: Accounts
    pulse: Callable[[], Awaitable[Pulse]]
