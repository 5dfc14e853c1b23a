"""What the log says of requests that fail, and what it must not say."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger

from api.support import Server, serving
from tocsin.flow.people.accounts import Accounts
from tocsin.web import site
from tocsin.web.visit import Visit
from web.conftest import Surfer


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    lines = CapturingLogger()
    monkeypatch.setattr(site, "_logger", lines)
    return lines


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "store", pages=True) as found:
        yield found


def test_a_fault_while_a_link_signs_in_does_not_write_the_link_down(
    server: Server, logged: CapturingLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Accounts, "sign_in_by_link", fails)
    answer = Surfer(server.base).post("/sign-in/the-token-that-signs-in")
    assert answer.status == 500
    [line] = logged.calls
    assert (line.method_name, line.args) == ("exception", ("page.failed",))
    assert line.kwargs["path"] == "/sign-in/{token}" and line.kwargs["reference"] in answer.text
    assert "the-token-that-signs-in" not in str(line)


def test_a_fault_says_which_page_and_which_row(server: Server, logged: CapturingLogger, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Visit, "recognize", fails)
    assert Surfer(server.base).get("/handlers/17").status == 500
    assert logged.calls[0].kwargs["path"] == "/handlers/{id:int}" and logged.calls[0].kwargs["id"] == 17


def test_a_client_that_leaves_within_a_form_is_no_fault_of_ours(
    server: Server, logged: CapturingLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, read_form = threading.Event(), Visit.read_form

    async def reads(visit: Visit) -> None:
        try:
            await read_form(visit)
        finally:
            left.set()

    monkeypatch.setattr(Visit, "read_form", reads)
    with socket.create_connection(("127.0.0.1", server.port)) as wire:
        wire.sendall(b"POST /sign-in HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nemail=")
    assert left.wait(20)
    assert Surfer(server.base).get("/healthz").status == 200  # served after what had begun before
    assert logged.calls == []
