"""The server of a process: its listener, what it prints, and how it is told to stop. `tocsin.app` has what it serves."""

import asyncio
import signal
import socket
import sys
from pathlib import Path
from typing import Any, TextIO

import structlog
import uvloop
from sqlalchemy import Engine

from tocsin import app, datadir, limits, observe, process
from tocsin.api import make_app, make_probes
from tocsin.bootstrap import make_first_user
from tocsin.door import Door, listen
from tocsin.door.register import rules_within
from tocsin.lines import Lines
from tocsin.net import mail, trust
from tocsin.options import note_options
from tocsin.ports.errors import StoreError
from tocsin.settings import Settings
from tocsin.vault import Vault
from tocsin.web import make_pages

CLIENTS_GRACE_SECONDS = 2.0  # for answers to clients when the service is stopped; `app.GRACE_SECONDS` follow
log = structlog.get_logger(__name__)


def serve(settings: Settings, out: TextIO | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. A fault that waiting does not fix is one sentence on standard error."""
    observe.set_up_logs(settings)
    printer = Printer(out or sys.stdout)
    try:
        return _serve_until_told(settings, printer)
    finally:
        printer.close()
        observe.close_logs()


def _serve_until_told(settings: Settings, out: "Printer") -> int:
    process.tune()
    try:
        with datadir.served(settings, process.end, alone=False):
            engine, vault = datadir.open_store(settings)
            listener = listen(settings)
            datadir.note_address(engine, _address(listener.getsockname()))
            first = make_first_user(engine, settings, show_password=out.is_terminal)
            note_options(engine, settings, vault)
            try:
                uvloop.run(_serve(settings, engine, vault, listener, out, first))
            finally:
                if settings.unix_socket:
                    Path(settings.unix_socket).unlink(missing_ok=True)
    except StoreError as error:
        print(f"tocsin: {error}", file=sys.stderr)
        return 1
    return 0


class Printer:
    """Standard output for the few printed lines: the service starts even if nobody can read them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines = Lines(out.fileno(), lambda _: b"")
        self.is_terminal = out.isatty()

    def print(self, *said: str) -> None:
        self._lines.write("".join(f"{line}\n" for line in said).encode())

    def close(self) -> None:
        self._lines.close()


async def _serve(settings: Settings, engine: Engine, vault: Vault, listener: socket.socket, out: Printer, first: list[str]) -> None:
    where = listener.getsockname()  # for a Unix socket its path, which no URL leads to
    bounds = limits.measure()
    listens_on = [] if isinstance(where, str) else [where[:2]]
    async with app.running(settings, engine, vault, lambda: listens_on, bounds, _address(where)) as service:
        site = make_probes(service) if settings.role == "worker" else make_app(service, make_pages(service))
        server = Door(site, settings, rules_within(bounds), CLIENTS_GRACE_SECONDS)
        service.metrics.watch("tocsin_connections", "Connections of clients.", lambda: server.register.count)

        def stop() -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under `nohup`
                asyncio.get_running_loop().add_signal_handler(number, stop)
        for sentence in mail.complaints(settings):
            log.warning("mail", complaint=sentence)
        for sentence in (*mail.notes(settings), *trust.notes()):
            log.info("tls", note=sentence)
        for sentence in trust.complaints():
            log.warning("tls", complaint=sentence)
        out.print(*first, f"tocsin serves {_address(where)}")
        log.info("started", address=_address(where))
        process.keep_what_is_here()
        await server.serve(sockets=[listener])
    log.info("stopped")


def _address(where: str | tuple[Any, ...]) -> str:
    """Where a listener is, as a client on this machine would name it."""
    if isinstance(where, str):
        return f"unix:{where}"
    return f"http://{_in_url(where[0])}:{where[1]}"


def _in_url(host: str) -> str:
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # shown, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
