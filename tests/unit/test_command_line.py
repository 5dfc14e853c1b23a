"""What the command line makes of its arguments, and of servers that are not tocsin."""

import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tocsin.admin import open_admin
from tocsin.cli import run, show
from tocsin.datadir import open_store
from tocsin.settings import load

LATIN_1 = b"caf\xe9".decode("utf-8", "surrogateescape")  # as Python hands over bytes that are not UTF-8
REPLACED = "caf\ufffd"


class Stranger:
    """Answers every request with the same content, unless it has another for its path."""

    def __init__(self) -> None:
        self.content = b""
        self.contents: dict[str, bytes] = {}
        self.count = 0
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                stranger.count += 1
                content = stranger.contents.get(self.path.partition("?")[0], stranger.content)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    stranger = Stranger()
    thread = threading.Thread(target=stranger.server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("TOCSIN_URL", stranger.url)
    monkeypatch.setenv("TOCSIN_API_KEY", "tk_" + "k" * 40)
    yield stranger
    stranger.server.shutdown()
    thread.join()
    stranger.server.server_close()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.env` and no settings of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TOCSIN_")]:
        monkeypatch.delenv(name)


# ------------------------------------------------------------------------------------------------- what is not tocsin

STRANGE = (
    *(b"{}", b"[1]", b"5", b"null", b'"x"', b"", b"<html>"),
    *(b'{"data": null}', b'{"data": 5}', b'{"data": "x"}', b'{"data": {}}', b'{"data": {"id": "x"}}', b'{"data": {"name": "x"}}'),
    *(b'{"data": []}', b'{"data": [5]}', b'{"data": [{"id": 1}]}', b'{"data": [{"id": 1}], "meta": {"total_pages": 1}}'),
    *(b'{"data": [], "meta": 5}', b'{"data": "\\ud800"}', b'{"data": ' + b"[" * 100_000, b'{"data": {"id": ' + b"9" * 5000 + b"}}"),
)
COMMANDS = (
    *("send x", "send x --wait --timeout 1", "preview x", "preview x --handler 1"),
    *("handlers list", "handlers show 1", "handlers add email x email=a@example.com", "handlers edit 1 --name x", "handlers enable 1"),
    *("handlers disable 1", "handlers delete 1", "handlers test 1", "handlers secret 1", "handlers secret 1 --rotate"),
    *("notifications list", "notifications show 1", "deliveries list", "deliveries show 1"),
    *("deliveries cancel 1", "deliveries cancel --notification 1", "deliveries retry 1", "deliveries retry --handler 1"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_whatever_another_server_answers_one_sentence_says_so(
    stranger: Stranger, command: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    for stranger.content in STRANGE:
        if not stranger.content and command == "handlers delete 1":
            continue  # that is what the service answers
        for arguments in (command.split(), [*command.split(), "--json"]):
            assert run(arguments) == 1, (stranger.content[:40], arguments)
            assert capfd.readouterr() == ("", f"tocsin: {stranger.url} does not answer like tocsin: check TOCSIN_URL.\n")


def test_a_server_that_promises_pages_without_end_is_not_asked_for_them(stranger: Stranger) -> None:
    stranger.content = b'{"data": [], "meta": {"total_pages": 100000}}'
    assert run(["deliveries", "list"]) == 0
    assert stranger.count == 1


@pytest.mark.parametrize("status", ["skipped", "pending"])
def test_what_a_list_lacks_is_not_asked_for_again_once_that_has_failed(
    stranger: Stranger, status: str, capfd: pytest.CaptureFixture[str]
) -> None:
    due = "2026-11-24 10:00:00 UTC"
    row = {"notification_handler_id": 1, "status": status, "attempt_count": 0, "last_error": None}
    times = dict.fromkeys(("datetime", "last_datetime", "next_attempt_datetime"), due)
    rows = [{"id": one, "notification_id": one, **row, **times} for one in range(1, 21)]
    stranger.content = b"<html>"
    stranger.contents["/api/deliveries"] = json.dumps({"data": rows, "meta": {"total_pages": 1}}).encode()
    stranger.contents["/api/notification-handlers"] = b'{"data": [], "meta": {"total_pages": 1}}'
    assert run(["deliveries", "list"]) == 0
    assert capfd.readouterr().out.count("says why" if status == "skipped" else f"waits until {due}") == 20
    assert stranger.count == 3


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("http://127.0.0.1:99999", 1, "TOCSIN_URL must have a port from 1 to 65535, or none"),
        ("http://127.0.0.1:port", 1, "TOCSIN_URL must have a port from 1 to 65535, or none"),
        ("http://[::1", 1, "TOCSIN_URL cannot be read as a URL"),
        ("http://user:hunter2@127.0.0.1:99999", 1, "TOCSIN_URL must have a port from 1 to 65535, or none"),
        ("http://user:hunter/2@127.0.0.1", 1, "TOCSIN_URL cannot be read as a URL: special characters in user and password must be"),
        ("http://\ud55c-.invalid", 1, "TOCSIN_URL cannot be used: http://\ud55c-.invalid is not a valid address."),
        (f"http://{LATIN_1}.invalid", 1, "is not a valid address."),
        ("http://한글.invalid", 5, "No answer from http://한글.invalid ("),
        (f"http://{'a' * 64}.invalid", 5, "No answer from http://aaa"),
    ],
)
def test_an_address_that_cannot_be_used_says_what_is_wrong_with_it(
    url: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOCSIN_URL", url)
    monkeypatch.setenv("TOCSIN_API_KEY", "tk_" + "k" * 40)
    assert run(["handlers", "list"]) == code
    err = capfd.readouterr().err
    assert said in err and "hunter" not in err and len(err.splitlines()) == 1


def test_blanks_around_an_address_are_no_part_of_it(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger.content = b'{"data": {"id": 7}}'
    monkeypatch.setenv("TOCSIN_URL", f" {stranger.url}/ \r\n")
    assert run(["send", "x"]) == 0


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("key", ["", "백업-실패", LATIN_1, "a\tb", "x" * 256])
def test_an_idempotency_key_that_the_service_refuses_sends_nothing(stranger: Stranger, key: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["send", "x", "--idempotency-key", key]) == 2
    assert stranger.count == 0
    assert capfd.readouterr().err.splitlines()[-1] == "tocsin: --idempotency-key must be 1 to 255 printable ASCII characters."


IDS = (
    *(command for command in COMMANDS if command.endswith(" 1") and "--timeout" not in command),
    *("send x --handler 1", "send x --handler 2 --handler 1", "deliveries list --notification 1", "deliveries list --handler 1"),
    *("deliveries retry --notification 1", "handlers edit 1"),
)


@pytest.mark.parametrize("given", ["-1", "0", "-987654"])
@pytest.mark.parametrize("command", IDS)
def test_what_is_no_id_is_wrong_usage(stranger: Stranger, command: str, given: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split()[:-1], given]) == 2
    err = capfd.readouterr().err
    assert stranger.count == 0 and "Invalid value" in err and "Must be >= 1." in err and "--help" in err


WHOLE = (
    *IDS,
    *("deliveries list --limit 1", "notifications list --limit 1", "audit --limit 1", "serve --port 1", "demo --port 1"),
)


@pytest.mark.parametrize("given", ["3.5", "1.0", "1_0", "0x1", "\uff11", "+1", " 1", "1e3", "", "9" * 50])
@pytest.mark.parametrize("command", WHOLE)
def test_what_is_no_whole_number_is_not_rounded(stranger: Stranger, command: str, given: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split()[:-1], given]) == 2
    assert stranger.count == 0 and f"{given!r} is not a whole number. Try `tocsin " in capfd.readouterr().err


@pytest.mark.parametrize("given", ["1_0", "\uff11", "inf", "nan", "+1", "1e3", ""])
def test_what_is_no_number_of_seconds_is_wrong_usage(stranger: Stranger, given: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["send", "x", "--timeout", given]) == 2
    assert stranger.count == 0 and f"{given!r} is not a number of seconds." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["deliveries", "list", "--search", LATIN_1], "--search"),
        (["deliveries", "retry", "--search", LATIN_1], "--search"),
        (["handlers", "add", LATIN_1, "x", "email=a@example.com"], "the type"),
        (["handlers", "add", "email", LATIN_1, "email=a@example.com"], "the name"),
        (["handlers", "add", "email", "x", f"{LATIN_1}=a@example.com"], "the settings"),
        (["handlers", "edit", "1", "--name", LATIN_1], "--name"),
        (["send", "x", "--send-at", LATIN_1], "--send-at"),
        (["preview", "x", "--field", f"{LATIN_1}=y"], "--field"),
    ],
)
def test_bytes_that_are_not_utf_8_are_replaced_in_every_argument(
    stranger: Stranger, arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run(arguments)
    assert stranger.count == 1
    assert capfd.readouterr().err.splitlines()[0] == f"1 byte of {told} could not be read as UTF-8 and became \ufffd."


def test_letters_that_the_locale_lacks_are_read_all_the_same(stranger: Stranger, capfd: pytest.CaptureFixture[str]) -> None:
    """Where Python decodes arguments as ASCII, each byte of a Korean letter is a surrogate."""
    stranger.content = b'{"data": {"id": 7}}'
    assert run(["handlers", "add", "email", "백업".encode().decode("ascii", "surrogateescape"), "email=a@example.com"]) == 0
    assert capfd.readouterr().err == ""


def test_names_of_users_are_refused_and_files_keep_their_bytes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / LATIN_1
    folder.mkdir()
    settings = load({"TOCSIN_DATA_DIR": str(folder)}, Path(os.devnull))
    open_store(settings)[0].dispose()
    here = ["--data-dir", str(folder)]
    assert run(["users", "add", "a@example.com", *here]) == 0
    assert run(["keys", "add", LATIN_1, "--user", "a@example.com", *here]) == 0
    with open_admin(settings) as admin:
        keys = admin.keys()
        assert [key.name for key in keys] == [REPLACED]
        for arguments in (
            *(["users", act, f"{LATIN_1}@example.com"] for act in ("add", "disable", "delete", "password")),
            ["users", "set", f"{LATIN_1}@example.com", "--admin"],
            ["keys", "add", "x", "--user", LATIN_1],
        ):
            capfd.readouterr()
            assert run([*arguments, *here]) == 2, arguments
            assert capfd.readouterr().err.splitlines()[-1].endswith("must be UTF-8.")
        assert [user.email for user in admin.users()] == ["a@example.com"]
    assert run(["keys", "revoke", LATIN_1, *here]) == 0
    assert run(["backup", str(tmp_path / f"{LATIN_1}.db"), *here]) == 0
    assert (tmp_path / f"{LATIN_1}.db").is_file()


def test_a_password_is_utf_8_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    open_store(load({"TOCSIN_DATA_DIR": str(folder)}, Path(os.devnull)))[0].dispose()
    here = ["--data-dir", str(folder)]
    assert run(["users", "add", "a@example.com", *here]) == 0
    for content, code in ((b"pass\xe9word 1234\n", 1), ("비밀번호는 열 글자 이상".encode(), 0)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))
        capfd.readouterr()
        assert run(["users", "password", "a@example.com", *here]) == code
    assert "is set" in capfd.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_loses_nothing_whatever_the_terminal_can_show(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    value = {"name": '한글 é \N{BELL} "q"', "id": 10**30, "path": LATIN_1}
    show.as_json({"name": value["name"]})
    show.as_json(value)
    out.seek(0)
    first, second = out.read().split("}\n{")
    assert json.loads(first + "}") == {"name": value["name"]} and json.loads("{" + second) == value
