"""Services that the tests of a file share, each test with a user of its own, and what they talk to."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.service import OwnedClient, Service
from e2e.stores import parametrize, stores_of
from mailserver import MailServer
from receiver import Receiver
from support import postgresql

Starter = Callable[..., Service]
SCHEDULE = "0.2s,0.4s"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """The kind of store that the test's services have: SQLite, unless the test says otherwise (`e2e.stores`)."""
    return getattr(request, "param", "sqlite")


@pytest.fixture
def start_service(tmp_path: Path, request: pytest.FixtureRequest, store: str) -> Iterator[Starter]:
    """`start_service(TOCSIN_UNKNOWN="stop")`: a service of the test's own. `crash_at`: the point at which this first run dies."""
    services: list[Service] = []
    with stores_of(store, request) as stores:

        def start(*, crash_at: str | None = None, from_scratch: bool = False, **environ: str) -> Service:
            folder = tmp_path / f"service{len(services)}"
            services.append(stores.service(folder, from_scratch=from_scratch, **environ))
            services[-1].crash_at = crash_at
            return services[-1].start()

        try:
            yield start
        finally:
            for service in services:
                service.kill()


@pytest.fixture
def made_service(tmp_path: Path, request: pytest.FixtureRequest, store: str) -> Iterator[Service]:
    """One that is not started."""
    with stores_of(store, request) as stores:
        service = stores.service(tmp_path / "made")
        yield service
        service.kill()


@pytest.fixture
def own_server() -> Iterator[postgresql.Server]:
    """Of PostgreSQL, with a database `tocsin`; the test may stop and kill it."""
    server = postgresql.Server()
    try:
        server.start().execute("CREATE DATABASE tocsin")
        yield server
    finally:
        server.remove()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def providers() -> Iterator[Receiver]:
    """Stands in for the Telegram and X that the shared services know; bots have paths of their own."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


Shared = Callable[..., Service]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Shared]:
    """`shared(name, store, TOCSIN_UNKNOWN="stop")`: the service of that name on that kind of store, which many tests of a file use."""
    services: dict[tuple[str, str], Service] = {}
    with ExitStack() as ends:

        def find(name: str, store: str, *, from_scratch: bool = True, **environ: str) -> Service:
            if (name, store) not in services:
                folder = tmp_path_factory.mktemp(name) / store
                stores = ends.enter_context(stores_of(store, request))
                service = stores.service(folder, from_scratch=from_scratch, **environ)
                ends.callback(service.kill)
                services[name, store] = service.start()
            return services[name, store]

        yield find


@pytest.fixture
def service(shared: Shared, store: str, providers: Receiver, mail_server: MailServer) -> Service:
    """Two quick retries, everything configured."""
    return shared(
        "service",
        store,
        TOCSIN_RETRY_SCHEDULE=SCHEDULE,
        TOCSIN_TELEGRAM_API_URL=providers.url(""),
        TOCSIN_X_API_URL=providers.url(""),
        TOCSIN_SMTP_URL=mail_server.url(),
        TOCSIN_EMAIL_FROM="tocsin <alarm@example.com>",
    )


@pytest.fixture
def strict_service(shared: Shared, store: str, providers: Receiver) -> Service:
    """Unknown means stop, two posts a day, no private networks, no mail server."""
    return shared(
        "strict",
        store,
        TOCSIN_RETRY_SCHEDULE="0.2s,1h",
        TOCSIN_UNKNOWN="stop",
        TOCSIN_X_DAILY_LIMIT="2",
        TOCSIN_X_API_URL=providers.url(""),
        TOCSIN_TELEGRAM_API_URL=providers.url(""),
        TOCSIN_ALLOW_NETWORKS="",
    )


@pytest.fixture
def client(service: Service) -> OwnedClient:
    """A new user of the shared service."""
    return service.client()
