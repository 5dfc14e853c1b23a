"""Services that several tests share, each test with a user of its own, and what they talk to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.service import OwnedClient, Service
from mailserver import MailServer
from receiver import Receiver

Starter = Callable[..., Service]
SCHEDULE = "0.2s,0.4s"


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Starter]:
    """`start_service(TOCSIN_UNKNOWN="stop")`: a service of the test's own. `crash_at`: the point at which this first run dies."""
    services: list[Service] = []

    def start(*, crash_at: str | None = None, from_scratch: bool = False, **environ: str) -> Service:
        services.append(Service(tmp_path / f"service{len(services)}", from_scratch=from_scratch, **environ))
        services[-1].crash_at = crash_at
        return services[-1].start()

    yield start
    for service in services:
        service.kill()


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


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, providers: Receiver, mail_server: MailServer) -> Iterator[Service]:
    """Two quick retries, everything configured."""
    service = Service(
        tmp_path_factory.mktemp("service"),
        from_scratch=True,
        TOCSIN_RETRY_SCHEDULE=SCHEDULE,
        TOCSIN_TELEGRAM_API_URL=providers.url(""),
        TOCSIN_X_API_URL=providers.url(""),
        TOCSIN_SMTP_URL=mail_server.url(),
        TOCSIN_EMAIL_FROM="tocsin <alarm@example.com>",
    )
    try:
        yield service.start()
    finally:
        service.kill()


@pytest.fixture(scope="session")
def strict_service(tmp_path_factory: pytest.TempPathFactory, providers: Receiver) -> Iterator[Service]:
    """Unknown means stop, two posts a day, no private networks, no mail server."""
    service = Service(
        tmp_path_factory.mktemp("strict"),
        from_scratch=True,
        TOCSIN_RETRY_SCHEDULE="0.2s,1h",
        TOCSIN_UNKNOWN="stop",
        TOCSIN_X_DAILY_LIMIT="2",
        TOCSIN_X_API_URL=providers.url(""),
        TOCSIN_TELEGRAM_API_URL=providers.url(""),
        TOCSIN_ALLOW_NETWORKS="",
    )
    try:
        yield service.start()
    finally:
        service.kill()


@pytest.fixture
def client(service: Service) -> OwnedClient:
    """A new user of the shared service."""
    return service.client()
