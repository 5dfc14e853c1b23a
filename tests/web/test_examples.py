"""The examples of the reference page: each is run against the service, and its answer has the form that the page shows."""

import functools
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.support import Client, Server, hook, serving, until
from receiver import Receiver
from tocsin.api.table import TABLE
from tocsin.flow.people.access import SCOPES
from tocsin.web.reference import Entry, _groups

FREE = {"settings", "fields"}  # objects whose keys are the user's
LAST = ("cancel_notification", "delete_handler")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Server, Client]]:
    """With a handler, a notification and a delivery of the id 1, as the examples have it."""
    with Receiver() as receiver, serving(tmp_path / "store", pages=True) as server:
        client = server.client(*SCOPES)
        assert hook(client, receiver.url("/hook")) == 1
        assert client.post("/api/notifications", {"message": "x", "handlers": [1]}).data == {"id": 1}
        until(lambda: client.get("/api/deliveries/1").data["status"], "delivered")
        yield server, client


def entries(server: Server) -> list[Entry]:
    """Those that end something come last."""
    found = [one for group in _groups(server.base).values() for one in group]
    assert len(found) == len(TABLE)
    return sorted(found, key=lambda one: one.endpoint.name in LAST)


def different(shown: Any, came: Any, path: str = "") -> list[str]:
    """Where an answer does not have the form that was promised."""
    if shown is None or came is None:
        return []
    if isinstance(shown, dict):
        if path.rpartition(".")[2] in FREE:
            return [] if isinstance(came, dict) else [path]
        if not isinstance(came, dict) or list(shown) != list(came):
            return [f"{path}: {came!r}"]
        return [one for name in shown for one in different(shown[name], came[name], f"{path}.{name}")]
    if isinstance(shown, list):
        if not isinstance(came, list):
            return [f"{path}: {came!r}"]
        return different(shown[0], came[0], f"{path}[]") if shown and came else []
    kinds = (int, float) if isinstance(shown, (int, float)) and not isinstance(shown, bool) else type(shown)
    return [] if isinstance(came, kinds) else [f"{path}: {came!r} is no {kinds}"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed (Debian: apt-get install curl)")
def test_every_curl_command_does_what_the_page_says(served: tuple[Server, Client]) -> None:
    server, client = served
    environ = {"PATH": os.environ["PATH"], "TOCSIN_API_KEY": str(client.key), "no_proxy": "*"}
    wrong: list[str] = []
    for entry in entries(server):
        command = f"{entry.curl} \\\n--silent --show-error --write-out '\\n%{{http_code}}'"
        out = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, timeout=60, check=False).stdout
        body, _, status = out.rpartition("\n")
        if status != str(entry.endpoint.result.status):
            wrong.append(f"{entry.endpoint.name}: {status} {body[:300]}")
        elif entry.answer:
            wrong += [f"{entry.endpoint.name}{one}" for one in different(json.loads(entry.answer), json.loads(body))]
        if entry.endpoint.name in {"alive", "ready"}:  # nothing in these is made up
            assert json.loads(entry.answer) == json.loads(body) == {"status": "ok", "complaints": []}
    assert wrong == []


def test_every_python_program_does_what_the_page_says(served: tuple[Server, Client], monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = served
    monkeypatch.setenv("TOCSIN_API_KEY", str(client.key))
    monkeypatch.setenv("no_proxy", "*")
    wrong: list[str] = []
    for entry in entries(server):
        out = io.StringIO()
        try:
            exec(entry.python, {"print": functools.partial(print, file=out)})  # standard output has the service's log, too
        except OSError as error:
            wrong.append(f"{entry.endpoint.name}: {error}")
            continue
        if out.getvalue().split(" ", 1)[0].strip() != str(entry.endpoint.result.status):
            wrong.append(f"{entry.endpoint.name}: {out.getvalue()[:200]}")
    assert wrong == []


def test_forms_say_one_for_true_as_the_document_does(served: tuple[Server, Client]) -> None:
    server, _ = served
    [change] = [one for one in entries(server) if one.endpoint.name == "change_handler"]
    assert "--form 'is_enabled=1'" in change.curl
    assert not [one.endpoint.name for one in entries(server) if "=True'" in one.curl or "=False'" in one.curl]
