"""A server for the session, a user for each test."""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from api.support import EMAIL, Client, Server, serving
from receiver import Receiver
from tocsin.flow.people.access import SCOPES

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def store_environ() -> Mapping[str, str]:
    """Where the store of `serve_with` is; a file whose tests are about SQL overrides it with `support.store.stores_environ`."""
    return {}


@pytest.fixture
def serve_with(tmp_path: Path, store_environ: Mapping[str, str]) -> Iterator[Callable[..., Server]]:
    """A server of the test's own, with settings of its own."""
    open_ones: list[Any] = []

    def start(**environ: str) -> Server:
        context = serving(tmp_path / f"store{len(open_ones)}", **store_environ, **environ)
        open_ones.append(context)
        return context.__enter__()

    yield start
    for context in open_ones:
        context.__exit__(None, None, None)


@pytest.fixture
def client(server: Server) -> Client:
    """A new user, whose key has every scope."""
    return server.client(*SCOPES)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def email_handler(client: Client) -> int:
    return client.post("/api/notification-handlers", EMAIL).data["id"]
