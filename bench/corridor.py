"""`python -m bench.corridor`: through how many calls, files and rooms one warm message goes, from its POST to its kept outcome.

Every call of a function of ours is counted, in all threads, between the request and the commit of the outcome. A room is a package or a
module right below `tocsin`. A change is counted where a thread calls a function of another file (or room) than the one called before.
"""

import argparse
import asyncio
import contextlib
import sqlite3
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

import tocsin
from bench.filling import MINE, fill, webhook
from bench.service import API_KEY
from tocsin import app, datadir, limits, observe
from tocsin.api import make_app
from tocsin.settings import load

WARM = 50  # messages before the one that is counted
_SOURCE = str(Path(tocsin.__file__).parent) + "/"
_AFTERWARDS_SECONDS = 0.05  # for what follows the commit
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Calls:
    """Calls of our functions, by thread, as (file, function), while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False
        self.of: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)

    def note(self, frame: FrameType, what: str, _: Any) -> None:
        code = frame.f_code
        if self.is_on and what == "call" and code.co_filename.startswith(_SOURCE):
            self.of[threading.get_ident()].append((code.co_filename.removeprefix(_SOURCE), code.co_qualname))


async def _receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.write(_ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _post(api: Any) -> int:
    """One message through the application itself: what the server does with its bytes is another matter."""
    body = msgspec.json.encode({"message": "**disk** at 91 % on `db-3`", "title": "Disk nearly full"})
    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer " + API_KEY.encode()),
        (b"content-length", b"%d" % len(body)),
    ]
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/notifications",
        "raw_path": b"/api/notifications",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await api(scope, receive, send)
    return status


async def _measure(folder: Path, calls: Calls) -> None:
    server = await asyncio.start_server(_receive, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    await asyncio.to_thread(fill, folder, [webhook(MINE, url)])
    settings = load(
        {"TOCSIN_DATA_DIR": str(folder / "data"), "TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8", "TOCSIN_LOG_LEVEL": "error"}, folder / "none.env"
    )
    observe.set_up_logs(settings)
    engine, vault = datadir.open_store(settings)
    async with app.running(settings, engine, vault, lambda: [], limits.measure()) as service:
        api = make_app(service)
        with contextlib.closing(sqlite3.connect(settings.data_path / datadir.STORE_FILE)) as store:
            for count in range(1, WARM + 2):
                calls.is_on = count > WARM
                if await _post(api) not in {200, 202}:
                    raise RuntimeError("the message was not accepted")
                while store.execute("SELECT count(*) FROM deliveries WHERE status = 1").fetchone()[0] < count:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(_AFTERWARDS_SECONDS)
            calls.is_on = False
    server.close()


def report(of: Iterable[list[tuple[str, str]]]) -> dict[str, int]:
    """What `Calls` has noted, counted."""
    threads = list(of)
    files = [[file for file, _ in calls] for calls in threads]
    rooms = [[file.split("/")[0].removesuffix(".py") for file in some] for some in files]
    return {
        "calls": sum(map(len, threads)),
        "functions": len({call for calls in threads for call in calls}),
        "files": len({file for some in files for file in some}),
        "changes of file": sum(_changes(some) for some in files),
        "changes of room": sum(_changes(some) for some in rooms),
    }


def _changes(names: list[str]) -> int:
    return sum(before != after for before, after in pairwise(names))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.corridor", description=__doc__)
    parser.add_argument("--calls", action="store_true", help="every call, in order, thread by thread")
    options = parser.parse_args()
    calls = Calls()
    threading.setprofile(calls.note)
    sys.setprofile(calls.note)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder), calls))
    sys.setprofile(None)
    if options.calls:
        for thread in calls.of.values():
            print(*(f"{file}:{function}" for file, function in thread), "", sep="\n")
    for what, count in report(calls.of.values()).items():
        print(f"{count:5} {what}")


if __name__ == "__main__":
    main()
