"""The rooms of the flow as one thing that the API, the pages and the commands are given."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from tocsin import clock
from tocsin.clock import SECOND
from tocsin.flow.handlers.consenting import Consenting
from tocsin.flow.handlers.preview import Previews
from tocsin.flow.handlers.register import Handlers
from tocsin.flow.handlers.trial import Tests
from tocsin.flow.history.audit import AuditTrail
from tocsin.flow.history.deliveries import Deliveries
from tocsin.flow.intake.accept import Accepting
from tocsin.flow.people.access import Access
from tocsin.flow.people.accounts import Accounts
from tocsin.flow.people.administration import Administration
from tocsin.flow.people.confirming import Confirming
from tocsin.flow.people.failures import Failures
from tocsin.flow.people.own_keys import OwnKeys
from tocsin.flow.people.passwords import Passwords
from tocsin.flow.people.second_factor import SecondFactors
from tocsin.flow.people.single_sign_on import SingleSignOn
from tocsin.flow.quotas import Quotas
from tocsin.metrics import Metrics
from tocsin.ports.history import History
from tocsin.ports.vitals import Vitals
from tocsin.ports.workers import Overview
from tocsin.settings import Settings


class Pulse(Struct, frozen=True):
    """How a user's deliveries go: those that are due, counted to 10,000, and for how many seconds the oldest of them has been. `total`: all
    that are not settled, of all users; for administrators only, else None.
    """

    waiting: int
    oldest_seconds: float
    total: int | None = None


async def pulse(history: History, vitals: Vitals, user_id: int, is_admin: bool) -> Pulse:
    """Raises Busy."""
    now = clock.now()
    waiting, oldest = await history.due_of(user_id, now)
    total = await vitals.backlog() if is_admin else None
    return Pulse(waiting, 0.0 if oldest is None else (now - oldest) / SECOND, total)


class Service(Struct, frozen=True):
    """`unready` gives what keeps the service from working, one sentence each; empty: ready. `complaints`: what else its operator is to
    know, such as a mail server that fails."""

    settings: Settings
    access: Access
    handlers: Handlers
    accepting: Accepting
    deliveries: Deliveries
    quotas: Quotas
    trials: Tests
    consenting: Consenting
    previews: Previews
    metrics: Metrics
    unready: Callable[[], list[str]]
    complaints: Callable[[], list[str]]
    accounts: Accounts
    passwords: Passwords
    confirming: Confirming
    keys: OwnKeys
    administration: Administration
    second_factors: SecondFactors
    single_sign_on: SingleSignOn
    failures: Failures
    audit: AuditTrail
    pulse: Callable[[int, bool], Awaitable[Pulse]]
    """Of a user, by id; and whether they are an administrator."""
    api_processes: Callable[[], int]
    """How many processes take requests, of which each lets its share through."""
    workers: Callable[[], Awaitable[Overview]] | None
    """The processes that share the store; None: it is served by this one alone."""
