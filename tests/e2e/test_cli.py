"""The command line against a real service, and against servers that are none."""

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.conftest import Starter
from e2e.service import Service, until
from receiver import Receiver
from tocsin.cli import run

KEY = "tk_" + "k" * 40
COMMAND = Path(sys.executable).parent / "tocsin"


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Running(NamedTuple):
    url: str
    data_dir: Path


Cli = Callable[..., Result]


def clean_environ(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")} | variables


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`tocsin serve` as a process of its own, on a free port."""
    folder = tmp_path_factory.mktemp("service")
    environ = clean_environ(
        TOCSIN_BOOTSTRAP_API_KEY=KEY,
        TOCSIN_BOOTSTRAP_EMAIL="first@example.com",
        TOCSIN_ALLOW_NETWORKS="127.0.0.0/8",
        TOCSIN_RETRY_SCHEDULE="1h",
        TOCSIN_LOG_LEVEL="warning",
    )
    command = [COMMAND, "serve", "--port", "0", "--data-dir", folder / "data"]
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    url = next(match[1] for line in process.stdout if (match := re.search(r"serves (http://\S+)", line)))
    yield Running(url, folder / "data")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs one command line in an empty folder: `cli("send", "hello", stdin=b"", TOCSIN_URL=...)`."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TOCSIN_")]:
        monkeypatch.delenv(name)

    def call(*arguments: str, stdin: bytes = b"", **variables: str) -> Result:
        with monkeypatch.context() as here:
            for name, value in variables.items():
                here.setenv(name, value)
            here.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            capfd.readouterr()
            code = run(arguments)
            out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    return call


@pytest.fixture
def client(cli: Cli, service: Running) -> Cli:
    """Runs a client command with the address and key of the running service."""
    return lambda *arguments, **more: cli(*arguments, **({"TOCSIN_URL": service.url, "TOCSIN_API_KEY": KEY} | more))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def added(client: Cli, receiver: Receiver, path: str, name: str = "Hook") -> int:
    result = client("handlers", "add", "webhook", name, f"webhook={receiver.url(path)}")
    assert result.code == 0, result.err
    return int(result.out.split()[-1].rstrip("."))


def arrived(receiver: Receiver) -> Any:
    """The notification that arrived; what the service says of handlers that other tests lose may come too."""
    return until(lambda: next((one.json() for one in receiver.requests if one.json()["type"] == "notification"), None))


# ---------------------------------------------------------------------------------------------------------------- send


def test_a_notification_with_everything_arrives(client: Cli, receiver: Receiver) -> None:
    handler = added(client, receiver, "/all")
    arguments = [
        "--title",
        "Disk [full]",
        "--severity",
        "critical",
        "--url",
        "https://example.com/1",
        "--field",
        "host=db-1",
        "--field",
        "q=a=b",
    ]
    result = client("send", "**91 %** 사용", *arguments, "--handler", str(handler), "--wait")
    assert (result.code, result.err) == (0, "")
    data = arrived(receiver)["data"]
    assert (data["title"], data["message"], data["severity"]) == ("Disk [full]", "**91 %** 사용", "critical")
    assert (data["url"], data["fields"]) == ("https://example.com/1", {"host": "db-1", "q": "a=b"})
    accepted, fate = result.out.splitlines()
    assert accepted == f"Accepted as notification {data['id']}."
    assert re.fullmatch(rf"delivered +Hook \(delivery {data['delivery_id']}, 1 attempt\)", fate)


def test_a_minus_reads_standard_input(client: Cli, receiver: Receiver) -> None:
    handler = added(client, receiver, "/stdin")
    assert client("send", "-", "--handler", str(handler), "--wait", stdin="첫 줄\n둘째 줄\n".encode()).code == 0
    assert arrived(receiver)["data"]["message"] == "첫 줄\n둘째 줄"


@pytest.mark.parametrize(
    ("piped", "arrives", "told"),
    [
        (b"caf\xe9 full\n", "caf\ufffd full", "1 byte of standard input could not be read as UTF-8 and became \ufffd.\n"),
        (b"\xff\xee\0x", "\ufffd\ufffd\ufffdx", "3 bytes of standard input could not be read as UTF-8 and became \ufffd.\n"),
        (b"\xef\xbb\xbf\xec\x82\xac\xec\x9a\xa9", "사용", ""),
        ("\ufeff디스크 가득\r\n".encode("utf-16-le"), "디스크 가득", ""),
        ("\ufeffx".encode("utf-32-be"), "x", ""),
        (
            "\ufeffx".encode("utf-16-be") + b"\x00",
            "x\ufffd",
            "1 byte of standard input could not be read as UTF-16-BE and became \ufffd.\n",
        ),
    ],
)
def test_whatever_bytes_are_piped_in_something_is_sent(client: Cli, receiver: Receiver, piped: bytes, arrives: str, told: str) -> None:
    result = client("send", "-", "--handler", str(added(client, receiver, "/bytes")), stdin=piped)
    assert (result.code, result.err) == (0, told)
    assert arrived(receiver)["data"]["message"] == arrives


def test_arguments_that_are_not_utf_8_are_sent(client: Cli, receiver: Receiver) -> None:
    """As Python hands them over: each byte that does not decode is a lone surrogate."""
    latin_1 = b"caf\xe9".decode("utf-8", "surrogateescape")
    given = ("--title", latin_1, "--field", f"where={latin_1}", "--handler", str(added(client, receiver, "/argument")))
    result = client("send", latin_1, *given)
    assert result.code == 0 and len(result.err.splitlines()) == 3
    data = arrived(receiver)["data"]
    assert [data["message"], data["title"], data["fields"]] == ["caf\ufffd", "caf\ufffd", {"where": "caf\ufffd"}]


def test_a_message_that_is_too_long_is_cut_at_a_line(client: Cli, receiver: Receiver) -> None:
    lines = "\n".join(f"{number} 줄" for number in range(20_000))
    result = client("send", "-", "--handler", str(added(client, receiver, "/long")), stdin=lines.encode())
    assert result.code == 0 and "only its beginning was sent" in result.err
    message = arrived(receiver)["data"]["message"]
    *kept, blank, last = message.split("\n")
    assert len(message.encode()) <= 65_536 and len(message.encode()) > 65_000
    assert lines.split("\n")[: len(kept)] == kept and (blank, "was cut here" in last) == ("", True)


@pytest.mark.parametrize(
    "arguments", [["-x"], ["--dry-run"], ["x", "--titel", "Disk"], ["--verbose", "x"], ["-é"], ["--json=yes", "x", "-q"]]
)
@pytest.mark.parametrize("command", ["send", "preview"])
def test_what_reads_like_an_option_and_is_none_sends_nothing(client: Cli, receiver: Receiver, command: str, arguments: list[str]) -> None:
    added(client, receiver, "/typo")
    result = client(command, *arguments)
    assert (result.code, result.out) == (2, "") and result.err.startswith("tocsin: Unknown option: -"), result
    assert not receiver.requests


@pytest.mark.parametrize("message", ["- list item", "-50 % left", "-", "- -x"])
def test_a_message_may_begin_with_a_hyphen(client: Cli, receiver: Receiver, message: str) -> None:
    handler = str(added(client, receiver, "/hyphen"))
    assert client("send", message, "--handler", handler, stdin=b"-").code == 0
    assert arrived(receiver)["data"]["message"] == message


def test_two_hyphens_end_the_options(client: Cli, receiver: Receiver) -> None:
    assert client("send", "--handler", str(added(client, receiver, "/ended")), "--", "--dry-run").code == 0
    assert arrived(receiver)["data"]["message"] == "--dry-run"


@pytest.mark.parametrize("arguments", [["--", "-x", "--json"], ["--", "a", "b"], ["hello", "world"], ["hello", "--", "world"]])
@pytest.mark.parametrize("command", ["send", "preview"])
def test_more_than_one_message_is_refused_in_words(client: Cli, receiver: Receiver, command: str, arguments: list[str]) -> None:
    added(client, receiver, "/two")
    result = client(command, *arguments)
    assert (result.code, result.out) == (2, "") and "quotes around" in result.err
    assert "Unused" not in result.err and "Did you mean" not in result.err
    assert not receiver.requests


def test_sending_prints_json(client: Cli, receiver: Receiver) -> None:
    handler = added(client, receiver, "/json")
    accepted = json.loads(client("send", "x", "--handler", str(handler), "--json").out)
    assert list(accepted) == ["id"]
    waited = client("send", "x", "--handler", str(handler), "--json", "--wait")
    found = json.loads(waited.out)
    assert (waited.code, waited.err, found["id"] > accepted["id"]) == (0, "", True)
    assert [(row["status"], row["notification_handler_id"]) for row in found["deliveries"]] == [("delivered", handler)]


def test_an_idempotency_key_sends_once(client: Cli, receiver: Receiver) -> None:
    given = ("send", "x", "--handler", str(added(client, receiver, "/once")), "--idempotency-key", "nightly 7", "--wait")
    first, second = client(*given), client(*given)
    assert (first.code, second.code, first.out) == (0, 0, second.out)
    assert len([request for request in receiver.requests if request.json()["type"] == "notification"]) == 1


def test_one_that_failed_beside_one_that_waits_is_exit_code_1(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/broken", 500)
    receiver.answer("/gone", 410)
    broken, gone = added(client, receiver, "/broken"), added(client, receiver, "/gone")
    result = client("send", "x", "--handler", str(broken), "--handler", str(gone), "--wait", "--timeout", "0.5")
    assert result.code == 1 and result.err.endswith("1 of 2 deliveries were still waiting.\n")


def test_plain_text_is_sent_and_previewed_as_such(client: Cli, receiver: Receiver) -> None:
    handler = added(client, receiver, "/text")
    assert client("send", "*a*", "--text", "--handler", str(handler), "--wait").code == 0
    assert client("send", "*a*", "--handler", str(handler), "--wait").code == 0
    sent = [one.json() for one in receiver.wait(2)]
    assert [one["data"]["format"] for one in sent if one["type"] == "notification"] == ["text", "markdown"]
    assert '"format":"text"' in client("preview", "*a*", "--text", "--handler", str(handler)).out.replace(" ", "")


def test_without_wait_it_returns_once_accepted(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/slow", hold=True)
    handler = added(client, receiver, "/slow")
    result = client("send", "x", "--handler", str(handler))
    assert result.code == 0 and result.out.startswith("Accepted as notification ")
    receiver.wait(1)
    receiver.release()


def test_with_wait_one_failure_among_the_deliveries_is_exit_code_1(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/gone", 410)
    good, bad = added(client, receiver, "/good", "Good"), added(client, receiver, "/gone", "Bad")
    result = client("send", "x", "--handler", str(good), "--handler", str(bad), "--wait")
    assert result.code == 1
    _, first, second = result.out.splitlines()
    assert first.startswith("delivered  Good (") and second.startswith("failed     Bad (") and "410" in second


def test_what_still_waits_when_time_is_up_is_exit_code_3(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/broken", 500)
    handler = added(client, receiver, "/broken")
    result = client("send", "x", "--handler", str(handler), "--wait", "--timeout", "0.5")
    assert result.code == 3
    assert result.out.splitlines()[1].startswith("pending ")
    assert result.err == "tocsin: After 0.5 s 1 of 1 deliveries were still waiting.\n"


def test_who_waits_is_told_once_why(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/broken", 500)
    result = client("send", "x", "--handler", str(added(client, receiver, "/broken")), "--wait", "--timeout", "2.5")
    told, last = result.err.splitlines()
    assert told.startswith("pending ") and "server_error" in told and " (next attempt 20" in told
    assert last == "tocsin: After 2.5 s 1 of 1 deliveries were still waiting."


def test_a_notification_for_later_waits(client: Cli, receiver: Receiver) -> None:
    handler = added(client, receiver, "/later")
    result = client("send", "x", "--handler", str(handler), "--send-at", "2026-01-01T00:00:00Z", "--expires-at", "2020-01-01 00:00:00")
    assert result.code == 1
    assert "expires_at" in result.err


def test_every_fault_of_a_notification_is_one_sentence(client: Cli) -> None:
    result = client("send", "x", "--url", "ftp://x", "--send-at", "soon", "--handler", "987654")
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert len(lines) == 3 and all(line.startswith("tocsin: ") and line.endswith(".") for line in lines)
    assert [name in result.err for name in ("url", "send_at", "987654")] == [True] * 3


@pytest.mark.parametrize("fields", [["novalue"], ["=x"], ["a=1", "a=2"]])
def test_fields_that_make_no_sense_are_wrong_usage(client: Cli, fields: list[str]) -> None:
    result = client("send", "x", *(part for field in fields for part in ("--field", field)))
    assert result.code == 2 and result.err.startswith("tocsin: --field ")


# ------------------------------------------------------------------------------------------------------------ handlers


def test_handlers_are_listed_without_their_settings(client: Cli, receiver: Receiver) -> None:
    handler = added(client, receiver, "/secret-path", "Listed")
    result = client("handlers", "list")
    assert result.code == 0
    [line] = [line for line in result.out.splitlines() if line.startswith(f"{handler} ")]
    assert line.split()[1:5] == ["webhook", "Listed", "ok", "0"]
    assert "secret-path" not in result.out
    rows = json.loads(client("handlers", "list", "--json").out)
    assert next(row for row in rows if row["id"] == handler)["settings"] == {"webhook": receiver.url("/secret-path")}


def test_the_list_says_which_handler_fails_since_when_and_why(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/dead", 404, body=b"no such hook")
    handler = added(client, receiver, "/dead", "Dead")
    client("send", "x", "--handler", str(handler))
    line = until(lambda: next((one for one in client("handlers", "list").out.splitlines() if "no such hook" in one), None))
    columns = line.split()
    assert columns[:4] == [str(handler), "webhook", "Dead", "failing"]
    assert columns[6] == "1"  # after the date and the time since when
    assert columns in [one.split() for one in client("handlers", "list", "--state", "failing").out.splitlines()]
    assert "no such hook" not in client("handlers", "list", "--state", "ok").out
    assert [row["id"] for row in json.loads(client("handlers", "list", "--state", "failing", "--json").out)].count(handler) == 1
    assert client("handlers", "list", "--state", "paused").err == "No handlers are paused.\n"


def test_a_name_cannot_steer_the_terminal(client: Cli, receiver: Receiver) -> None:
    handler = added(client, receiver, "/evil", "evil\x1b[2J\n[bold]name[/bold]\u009b1m")
    assert client("send", "x", "--handler", str(handler), "--wait").out.count("evil [2J [bold]name[/bold] 1m") == 1
    result = client("handlers", "list")
    assert "evil [2J [bold]name[/bold] 1m" in result.out and not set(result.out) & {"\x1b", "\u009b"}


def test_a_setting_can_be_piped_in(client: Cli) -> None:
    result = client("handlers", "add", "email", "Piped", "email=-", stdin=b"hey@example.com\n")
    assert result.code == 0
    rows = json.loads(client("handlers", "list", "--json").out)
    assert next(row for row in rows if row["name"] == "Piped")["settings"] == {"email": "hey@example.com"}


def test_a_handler_that_is_refused_is_explained(client: Cli) -> None:
    result = client("handlers", "add", "email", "Mixed", "slack=https://example.com/x")
    assert result.code == 1
    assert len(result.err.splitlines()) == 2
    assert client("handlers", "add", "email", "x", "email").code == 2
    assert client("handlers", "add", "telegram", "x", "telegram=-", "telegram_chat_id=-").code == 2


def test_a_handler_is_shown_changed_paused_and_deleted(client: Cli, receiver: Receiver) -> None:
    handler = str(added(client, receiver, "/first", "First"))
    assert client("send", "x", "--handler", handler, "--wait").code == 0
    shown = client("handlers", "show", handler)
    assert shown.out.splitlines()[:3] == [f"First (handler {handler}, webhook)", "State: ok", "Settings: webhook (--json shows them)"]
    assert "/first" not in shown.out
    until(lambda: re.search(r"Deliveries: \d delivered", client("handlers", "show", handler).out))  # notices of other tests count too

    changed = client("handlers", "edit", handler, "webhook=-", "--name", "Second", stdin=receiver.url("/second").encode())
    assert changed.out == f"Changed handler {handler}.\n"
    assert client("send", "x", "--handler", handler, "--wait").code == 0
    assert [request.path for request in receiver.requests if request.json()["type"] == "notification"] == ["/first", "/second"]

    assert client("handlers", "disable", handler).out == f"Disabled handler {handler}.\n"
    assert "State: paused" in client("handlers", "show", handler).out
    assert client("handlers", "enable", handler, "--json").out == json.dumps({"id": int(handler)}, indent=2) + "\n"
    found = json.loads(client("handlers", "show", handler, "--json").out)
    assert (found["name"], found["is_enabled"], found["stats"]["health"]["state"]) == ("Second", True, "ok")

    assert client("handlers", "delete", handler).out == f"Deleted handler {handler}.\n"
    gone = client("handlers", "show", handler)
    assert (gone.code, gone.err) == (1, f"tocsin: There is no handler {handler}.\n")


def test_a_failing_handler_is_shown_with_its_reason_and_what_waits(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/down", 500, body=b"out of order")
    handler = str(added(client, receiver, "/down", "Down"))
    assert client("send", "x", "--handler", handler, "--wait", "--timeout", "0.5").code == 3
    [row] = [one for one in json.loads(client("handlers", "list", "--json").out) if one["id"] == int(handler)]
    assert (row["state"], row["reason"], row["detail"], row["waiting"]) == ("failing", "server_error", "500 out of order", 1)
    shown = client("handlers", "show", handler).out.splitlines()
    assert shown[1:3] == [f"State: failing, since {row['since']} UTC", "Reason: server_error: 500 out of order"]
    assert f"Waiting: 1, next attempt {row['next_attempt_datetime']} UTC" in shown


def test_one_that_is_switched_off_says_since_when(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/gone", 410)
    handler = str(added(client, receiver, "/gone", "Gone"))
    assert client("send", "x", "--handler", handler, "--wait").code == 1
    until(lambda: "switched off" in client("handlers", "show", handler).out)  # a moment after its delivery has ended
    shown = client("handlers", "show", handler).out.splitlines()
    assert re.fullmatch(r"State: switched off, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown[1])
    assert shown[2] == "Reason: The target is gone. The receiver answered 410 Gone: it wants no more messages."
    until(lambda: "Failed 1 time: The target is gone." in client("handlers", "show", handler).out)


def test_json_has_states_beside_what_the_api_lists_in_its_order(client: Cli, receiver: Receiver) -> None:
    first, second = added(client, receiver, "/a"), added(client, receiver, "/b")
    assert client("handlers", "disable", str(second)).code == 0
    rows = json.loads(client("handlers", "list", "--json").out)
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    states = {row["id"]: row for row in rows}
    assert (states[first]["state"], states[first]["since"], states[first]["is_enabled"]) == ("ok", None, True)
    assert (states[second]["state"], states[second]["waiting"], states[second]["is_enabled"]) == ("paused", 0, False)
    assert list(states[second])[-6:] == ["state", "since", "reason", "detail", "waiting", "next_attempt_datetime"]
    assert [row["id"] for row in json.loads(client("handlers", "list", "--state", "paused", "--json").out)] == [
        row["id"] for row in rows if row["state"] == "paused"
    ]


def test_a_change_names_something(client: Cli, receiver: Receiver) -> None:
    handler = str(added(client, receiver, "/nothing"))
    assert client("handlers", "edit", handler).code == 2
    assert client("handlers", "edit", handler, "name=x", "--name", "y").code == 2
    assert client("handlers", "edit", handler, "name=x").out == f"Changed handler {handler}.\n"
    assert client("handlers", "edit", "987654", "--name", "x").err == "tocsin: There is no handler 987654.\n"


def test_the_secret_of_a_webhook_is_printed_and_rotated(client: Cli, receiver: Receiver) -> None:
    handler = str(added(client, receiver, "/signed"))
    first = client("handlers", "secret", handler)
    assert re.fullmatch(r"whsec_\S+\n", first.out) and first.err == ""
    second = client("handlers", "secret", handler, "--rotate")
    assert re.fullmatch(r"whsec_\S+\n", second.out) and second.out != first.out and "The previous secret signs too until 20" in second.err
    found = json.loads(client("handlers", "secret", handler, "--json").out)
    assert (found["secret"], found["previous"]) == (second.out.strip(), first.out.strip())
    mail = client("handlers", "add", "email", "Mail", "email=a@example.com", "--json")
    none = client("handlers", "secret", str(json.loads(mail.out)["id"]))
    assert none.code == 1 and "only webhooks have a signing secret" in none.err


def test_a_test_send_says_what_came_of_it(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/bad", 418, body=b"I am a teapot")
    good, bad = added(client, receiver, "/fine"), added(client, receiver, "/bad")
    assert re.fullmatch(r"Delivered \([\d,]+ ms\)\.\n", client("handlers", "test", str(good)).out)
    result = client("handlers", "test", str(bad))
    assert result.code == 1
    assert result.out.startswith("Failed, rejected (")
    assert "teapot" in result.err
    assert client("handlers", "test", "987654").code == 1


# ---------------------------------------------------------------------------------------------------------- deliveries


def test_a_preview_shows_the_request_its_sizes_and_what_is_changed(client: Cli, receiver: Receiver) -> None:
    handler = client("handlers", "add", "slack", "Ops", f"slack={receiver.url('/hooks/S3cret')}").out.split()[-1].rstrip(".")
    given = ("preview", "## Disk\n**db-1** is \x1b[31mfull", "--title", "Alarm", "--handler", handler)
    shown = client(*given)
    assert shown.code == 0, shown.err
    assert f"Ops (handler {handler}, slack)" in shown.out
    assert "blocks: 2 of 50 blocks" in shown.out
    assert '"text":"db-1"' in shown.out
    assert "Heading becomes bold text." in shown.out
    assert "S3cret" not in shown.out
    assert "\x1b" not in shown.out
    assert json.loads(client(*given, "--json").out)["type"] == "slack"
    assert not receiver.requests
    assert client("preview", "x", "--handler", "999999").code == 1


def test_previews_of_several_handlers_are_one_document(client: Cli, receiver: Receiver) -> None:
    both = [added(client, receiver, path) for path in ("/one", "/other")]
    named = [word for one in both for word in ("--handler", str(one))]
    found = json.loads(client("preview", "x", *named, "--json").out)
    assert [(one["notification_handler_id"], one["type"]) for one in found] == [(one, "webhook") for one in both]
    everyone = json.loads(client("preview", "x", "--json").out)
    assert set(both) <= {one["notification_handler_id"] for one in everyone}
    alone = json.loads(client("preview", "x", *named[:2], *named[:2], "--json").out)
    assert alone["type"] == "webhook" and "notification_handler_id" not in alone


def test_deliveries_are_listed_and_retried(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/heals", 403, body=b"action_prohibited")
    receiver.answer("/heals", 200)
    handler = int(client("handlers", "add", "slack", "Healing", f"slack={receiver.url('/heals')}").out.split()[-1].rstrip("."))
    which = ["--handler", str(handler)]
    assert client("send", "first", *which, "--wait").code == 1
    [row] = json.loads(client("deliveries", "list", *which, "--status", "failed", "--json").out)
    table = client("deliveries", "list", *which).out.splitlines()
    assert table[1].split()[:4] == [str(row["id"]), str(row["notification_id"]), "Healing", "failed"]
    assert client("deliveries", "list", *which, "--status", "delivered").err == "No deliveries.\n"

    assert client("deliveries", "retry", str(row["id"])).out == "1 will be tried again.\n"
    receiver.wait(2)
    ends_at = time.monotonic() + 10
    while json.loads(client("deliveries", "list", *which, "--json").out)[0]["status"] != "delivered":
        assert time.monotonic() < ends_at
    assert client("deliveries", "retry", *which).out.startswith("Nothing to send again:")
    assert client("deliveries", "retry", str(row["id"])).out == "It has arrived: nothing is sent again.\n"


def test_a_retry_for_a_disabled_handler_says_what_to_do_first(client: Cli, receiver: Receiver) -> None:
    handler = str(added(client, receiver, "/off"))
    later = f"{time.gmtime().tm_year + 1}-01-01T00:00:00Z"
    assert client("send", "x", "--handler", handler, "--send-at", later).code == 0
    assert client("handlers", "disable", handler).code == 0
    [row] = json.loads(client("deliveries", "list", "--handler", handler, "--json").out)
    refused = client("deliveries", "retry", str(row["id"]))
    assert (refused.code, refused.out) == (1, "")
    assert f"handler {handler} is not enabled" in refused.err and f"`tocsin handlers enable {handler}`" in refused.err
    assert json.loads(client("deliveries", "retry", "--handler", handler, "--json").out) == {"retried": 0}
    assert client("handlers", "enable", handler).code == 0
    assert client("deliveries", "retry", str(row["id"])).out == "1 will be tried again.\n"


def test_what_was_skipped_says_why_wherever_it_is_shown(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/trying", 500)
    paused, trying = str(added(client, receiver, "/paused", "Paused")), str(added(client, receiver, "/trying", "Trying"))
    assert client("handlers", "disable", paused).code == 0
    sent = client("send", "x", "--handler", paused, "--wait")
    assert sent.code == 1
    assert re.fullmatch(r"skipped    Paused \(delivery \d+, 0 attempts\): The handler is paused\.", sent.out.splitlines()[1])
    assert client("deliveries", "list", "--handler", paused).out.splitlines()[1].endswith("  The handler is paused.")
    notification = re.findall(r"\d+", sent.out)[0]
    assert client("notifications", "show", notification).out.splitlines()[-1] == sent.out.splitlines()[1]

    assert client("send", "x", "--handler", trying, "--wait", "--timeout", "0.5").code == 3
    assert client("handlers", "disable", trying).code == 0  # after an attempt, whose answer is not why it was skipped
    assert client("deliveries", "list", "--handler", trying).out.splitlines()[1].endswith("  The handler is paused.")


def test_of_very_many_that_were_skipped_not_all_are_looked_up(client: Cli, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.cli.deliveries._MAX_LOOKED_UP", 1)
    handler = str(added(client, receiver, "/off", "Off"))
    assert client("handlers", "disable", handler).code == 0
    for _ in range(2):
        assert client("send", "x", "--handler", handler).code == 0
    first, second = client("deliveries", "list", "--handler", handler).out.splitlines()[1:]
    assert first.endswith("  The handler is paused.")
    assert second.endswith(f"  `tocsin deliveries show {second.split()[0]}` says why")


def test_what_expires_before_its_next_attempt_says_so(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/broken", 500)
    handler = str(added(client, receiver, "/broken", "Broken"))
    soon = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() + 600))
    later = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() + 86_400))
    given = ("--handler", handler, "--wait", "--timeout")
    told = client("send", "first", *given, "2.5", "--expires-at", soon)
    assert told.code == 3 and f" (expires {soon})\n" in told.err
    assert client("send", "second", *given, "0.5", "--expires-at", later).code == 3
    assert client("send", "third", *given, "0.5").code == 3
    third, second, first = client("deliveries", "list", "--handler", handler).out.splitlines()[1:]
    assert f"  expires {soon}, server_error: 500" in first and "next attempt" not in first
    assert "  next attempt 20" in second and "expires" not in second
    assert "  next attempt 20" in third and "expires" not in third


def test_a_delivery_tells_its_story(client: Cli, receiver: Receiver) -> None:
    receiver.answer("/story", 410, body=b"channel_is_archived")
    handler = str(added(client, receiver, "/story", "Story"))
    assert client("send", "x", "--handler", handler, "--wait").code == 1
    [row] = json.loads(client("deliveries", "list", "--handler", handler, "--json").out)
    shown = client("deliveries", "show", str(row["id"]))
    assert shown.out.startswith(f"failed     Story (delivery {row['id']}, 1 attempt)")
    assert "Accepted." in shown.out and "Attempt 1, 20" in shown.out and "status 410" in shown.out
    assert "channel_is_archived\n" in shown.out and "it wants no more messages." in shown.out
    detail = json.loads(client("deliveries", "show", str(row["id"]), "--json").out)
    assert detail["attempts"][0]["status_code"] == 410
    assert client("deliveries", "show", "987654").err == "tocsin: There is no delivery 987654.\n"


def test_one_delivery_or_all_of_a_notification_are_cancelled(client: Cli, receiver: Receiver) -> None:
    ids = [str(added(client, receiver, f"/later{number}")) for number in range(3)]
    handlers = [part for handler in ids for part in ("--handler", handler)]
    later = json.loads(client("send", "x", *handlers, "--send-at", f"{time.gmtime().tm_year + 1}-01-01T00:00:00Z", "--json").out)["id"]
    rows = json.loads(client("deliveries", "list", "--notification", str(later), "--json").out)
    first = str(rows[0]["id"])
    assert client("deliveries", "cancel", first).out == "1 cancelled.\n"
    assert client("deliveries", "cancel", first).out == "Nothing was waiting any more.\n"
    assert json.loads(client("deliveries", "show", first, "--json").out)["status"] == "cancelled"
    assert json.loads(client("notifications", "show", str(later), "--json").out)["deliveries"]["pending"] == 2
    assert json.loads(client("deliveries", "cancel", "--notification", str(later), "--json").out) == {"id": later, "cancelled": 2}
    assert client("deliveries", "cancel", "987654").err == "tocsin: There is no delivery 987654.\n"
    assert client("deliveries", "cancel").code == client("deliveries", "cancel", "1", "--notification", "1").code == 2


def test_notifications_are_listed_and_shown(client: Cli, receiver: Receiver) -> None:
    handler = added(client, receiver, "/listed", "Listed")
    sent = client("send", "**full**", "--title", "Disk", "--field", "host=db-1", "--handler", str(handler), "--wait", "--json")
    notification = str(json.loads(sent.out)["id"])
    lines = client("notifications", "list", "--limit", "10").out.splitlines()  # notices of what other tests lose are in it, too
    assert next(line.split() for line in lines if line.split()[0] == notification)[-3:] == ["1", "delivered", "Disk"]
    shown = client("notifications", "show", notification).out
    for part in (
        f"Notification {notification}, info, accepted 20",
        "Title: Disk\n",
        "host: db-1\n",
        "\n**full**\n",
        "delivered  Listed (delivery ",
    ):
        assert part in shown
    assert client("notifications", "show", "987654").err == "tocsin: There is no notification 987654.\n"


def test_a_retry_needs_one_delivery_or_filters(client: Cli) -> None:
    assert client("deliveries", "retry").code == 2
    assert client("deliveries", "retry", "1", "--status", "failed").code == 2
    assert client("deliveries", "retry", "987654").code == 1


def test_lists_go_on_over_pages(client: Cli, receiver: Receiver) -> None:
    """12 deliveries at --limit 11 is more than the smallest page."""
    handler = added(client, receiver, "/many")
    for number in range(12):
        assert client("send", str(number), "--handler", str(handler)).code == 0
    assert len(json.loads(client("deliveries", "list", "--handler", str(handler), "--limit", "11", "--json").out)) == 11


def test_a_narrow_key_can_send_and_wait(client: Cli, service: Running, receiver: Receiver) -> None:
    handler = added(client, receiver, "/narrow")
    scopes = ["--scope", "notifications:send", "--scope", "deliveries:read"]
    key = client("keys", "add", "narrow", "--user", "first@example.com", *scopes, "--data-dir", str(service.data_dir)).out.strip()
    result = client("send", "x", "--handler", str(handler), "--wait", TOCSIN_API_KEY=key)
    assert (result.code, f"handler {handler} (" in result.out) == (0, True)
    refused = client("handlers", "list", TOCSIN_API_KEY=key)
    assert refused.code == 4 and "handlers:read" in refused.err


# --------------------------------------------------------------------------------------------- what is no running service


def test_a_service_that_is_not_there_is_named(cli: Cli) -> None:
    result = cli("handlers", "list", TOCSIN_URL="http://127.0.0.1:9", TOCSIN_API_KEY=KEY)
    assert result.code == 5
    assert "http://127.0.0.1:9 (connection refused)" in result.err and "TOCSIN_URL" in result.err


def test_an_address_with_a_password_in_it_is_refused_unseen(cli: Cli) -> None:
    result = cli("handlers", "list", TOCSIN_URL="http://user:hunter2@127.0.0.1:9", TOCSIN_API_KEY=KEY)
    assert result.code == 1
    assert "TOCSIN_URL" in result.err and "hunter2" not in result.err


def test_the_key_is_asked_for_and_judged_by_its_variable(cli: Cli, service: Running) -> None:
    assert cli("handlers", "list", TOCSIN_URL=service.url).err.startswith("tocsin: TOCSIN_API_KEY is not set")
    wrong = cli("handlers", "list", TOCSIN_URL=service.url, TOCSIN_API_KEY="tk_" + "x" * 30)
    assert wrong.code == 4 and "TOCSIN_API_KEY" in wrong.err and "xxx" not in wrong.err
    odd = cli("handlers", "list", TOCSIN_URL=service.url, TOCSIN_API_KEY="hunter2\r\nX: y")
    assert odd.code == 4 and "hunter2" not in odd.err


def test_address_and_key_come_from_dotenv_too(cli: Cli, service: Running, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"TOCSIN_URL={service.url}\nTOCSIN_API_KEY={KEY}\n")
    assert cli("handlers", "list").code == 0


def test_a_key_with_blanks_around_it_is_taken(client: Cli) -> None:
    assert client("handlers", "list", TOCSIN_API_KEY=f" {KEY}\r\n").code == 0


def test_an_address_with_the_api_in_it_is_explained(client: Cli, service: Running) -> None:
    result = client("handlers", "list", TOCSIN_URL=f"{service.url}/api")
    assert result.code == 1 and f"There is nothing at {service.url}/api/api/handler-states" in result.err and "TOCSIN_URL" in result.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(cli: Cli, shell: str) -> None:
    result = cli("completion", shell)
    assert result.code == 0 and "handlers" in result.out and "secret" in result.out


def test_a_redirect_is_reported_and_the_key_stays_at_home(cli: Cli, receiver: Receiver) -> None:
    receiver.answer("/api/handler-states", 301, headers={"Location": receiver.url("/elsewhere")})
    result = cli("handlers", "list", TOCSIN_URL=receiver.url("/").rstrip("/"), TOCSIN_API_KEY=KEY)
    assert result.code == 1 and "redirects to" in result.err and "TOCSIN_URL" in result.err
    assert [request.path for request in receiver.requests] == ["/api/handler-states"]


@pytest.mark.parametrize(
    ("answer", "code", "sentence"),
    [
        ({"body": b"<html>"}, 1, "does not answer like tocsin"),
        ({"body": b"\xff"}, 1, "does not answer like tocsin"),
        ({"status": 502, "body": b"<html>Bad gateway"}, 5, "answered 502 without saying why"),
        ({"status": 504, "body": b""}, 5, "answered 504 without saying why"),
        ({"status": 500, "body": b'{"errors": []}'}, 1, "answered 500 without saying why"),
        ({"status": 404, "body": b"<html>"}, 1, "There is nothing at http://127.0.0.1:"),
        ({"how": "close"}, 5, "No answer from"),
        ({"how": "cut_body"}, 5, "No answer from"),
    ],
)
def test_strange_answers_are_one_sentence(cli: Cli, receiver: Receiver, answer: dict[str, object], code: int, sentence: str) -> None:
    receiver.answer("/api/handler-states", **answer)
    result = cli("handlers", "list", TOCSIN_URL=receiver.url("/").rstrip("/"), TOCSIN_API_KEY=KEY)
    assert result.code == code and sentence in result.err and len(result.err.splitlines()) == 1


def test_a_busy_service_is_asked_again_with_the_same_idempotency_key(cli: Cli, receiver: Receiver) -> None:
    receiver.answer("/api/notifications", 503, headers={"Retry-After": "0"}, body=b"{}")
    receiver.answer("/api/notifications", 202, body=b'{"data": {"id": 7}}')
    result = cli("send", "x", TOCSIN_URL=receiver.url("/").rstrip("/"), TOCSIN_API_KEY=KEY)
    assert (result.code, result.out) == (0, "Accepted as notification 7.\n")
    first, second = (request.headers["idempotency-key"] for request in receiver.requests)
    assert first == second and len(first) >= 32


# ---------------------------------------------------------------------------------------------------- users and keys


def test_users_and_keys_beside_a_running_service(client: Cli, service: Running) -> None:
    here = ["--data-dir", str(service.data_dir)]
    link = client("users", "add", "second@example.com", "--admin", *here)
    assert link.code == 0 and re.fullmatch(rf"{service.url}/sign-in/[\w-]{{40,}}\n", link.out)
    assert client("users", "add", "second@example.com", *here).code == 1
    assert client("users", "add", "no address", *here).code == 1
    assert client("users", "password", "second@example.com", *here, stdin=b"correct horse\n").code == 0
    assert client("users", "password", "second@example.com", *here, stdin=b"short\n").err == (
        "tocsin: A password takes 10 to 1,024 characters, and this one has 5.\n"
    )
    assert client("users", "password", "nobody@example.com", *here, stdin=b"x\n").code == 1

    key = client("keys", "add", "laptop", "--user", "second@example.com", *here).out.strip()
    assert re.fullmatch(r"tk_[A-Za-z0-9]{43}", key)
    assert client("keys", "add", "odd", "--user", "second@example.com", "--scope", "everything", *here).code == 1
    assert client("handlers", "list", TOCSIN_API_KEY=key).err.startswith("No handlers yet")

    users = {user["email"]: user for user in json.loads(client("users", "list", "--json", *here).out)}
    assert users["second@example.com"]["is_admin"] is True and users["first@example.com"]["disabled_datetime"] is None
    assert "second@example.com" in client("users", "list", *here).out
    [row] = [row for row in json.loads(client("keys", "list", "--json", *here).out) if row["name"] == "laptop"]
    assert row["user"] == "second@example.com" and key.startswith(row["beginning"])
    assert key not in client("keys", "list", *here).out

    assert client("keys", "revoke", str(row["id"]), *here).code == 0
    ends_at = time.monotonic() + 2.5
    while client("handlers", "list", TOCSIN_API_KEY=key).code == 0:
        assert time.monotonic() < ends_at, "a revoked key still works"
    assert client("keys", "revoke", "no such key", *here).code == 1

    assert client("users", "disable", "second@example.com", *here).code == 0
    assert "disabled" in client("users", "list", *here).out
    assert client("users", "delete", "second@example.com", *here).code == 0
    assert "second@example.com" not in client("users", "list", *here).out
    assert client("users", "delete", "second@example.com", *here).code == 1


def test_users_set_resets_how_somebody_signs_in(client: Cli, service: Running) -> None:
    here = ["--data-dir", str(service.data_dir)]
    assert client("users", "add", "locked@example.com", *here).code == 0
    none = "locked@example.com has no second factor and is bound to no account of a provider.\n"
    assert client("users", "set", "locked@example.com", "--reset-second-factor", "--unbind", *here) == (0, "", none)
    with sqlite3.connect(service.data_dir / "tocsin.db", timeout=20) as store:
        [(user,)] = store.execute("SELECT id FROM users WHERE email = 'locked@example.com'")
        store.execute("INSERT INTO second_factors (user_id, secret, last_step, created_at) VALUES (?, x'00', 1, 1)", (user,))
        store.execute("INSERT INTO recovery_codes (user_id, hash) VALUES (?, x'00')", (user,))
        store.execute("INSERT INTO identities (issuer, subject, user_id, created_at) VALUES ('https://id.example', '1', ?, 1)", (user,))
    store.close()
    changed = "locked@example.com is changed.\n"
    assert client("users", "set", "locked@example.com", "--reset-second-factor", *here) == (0, "", changed)
    half = "locked@example.com has no second factor.\n"
    assert client("users", "set", "locked@example.com", "--reset-second-factor", "--unbind", *here) == (0, "", half + changed)
    assert client("users", "set", "nobody@example.com", "--unbind", *here) == (1, "", "tocsin: There is no user nobody@example.com.\n")
    assert client("users", "delete", "locked@example.com", *here).code == 0


def test_users_set_changes_the_zone_and_who_is_an_administrator(client: Cli, service: Running) -> None:
    here = ["--data-dir", str(service.data_dir)]

    def user(email: str) -> dict[str, Any]:
        [found] = [one for one in json.loads(client("users", "list", "--json", *here).out) if one["email"] == email]
        return found

    assert client("users", "add", "zoned@example.com", *here).code == 0
    assert user("zoned@example.com")["time_zone"] is None
    done = client("users", "set", "zoned@example.com", "--time-zone", "asia/kathmandu", *here)
    assert (done.code, done.out, done.err) == (0, "", "zoned@example.com is changed.\n")
    assert (user("zoned@example.com")["time_zone"], user("zoned@example.com")["is_admin"]) == ("Asia/Kathmandu", False)
    assert "Asia/Kathmandu" in client("users", "list", *here).out

    refused = client("users", "set", "zoned@example.com", "--time-zone", "Kathmandu", "--admin", "--reset-second-factor", *here)
    assert refused.code == 1 and refused.err.startswith("tocsin: There is no time zone Kathmandu. Similar names: Asia/Kathmandu")
    for given, named in (("", '""'), ("\x1b[31mNo\nwhere", " [31mNo where")):
        refused = client("users", "set", "zoned@example.com", "--time-zone", given, *here)
        said = f"tocsin: There is no time zone {named}. Use a name such as Asia/Seoul or Europe/Berlin.\n"
        assert (refused.code, refused.err) == (1, said)
    assert client("users", "set", "nobody@example.com", "--time-zone", "UTC", *here).err == "tocsin: There is no user nobody@example.com.\n"
    nothing = client("users", "set", "zoned@example.com", *here)
    said = "tocsin: Say what to set: --time-zone, --admin, --no-admin, --reset-second-factor or --unbind.\n"
    assert nothing.code == 2 and nothing.err == said
    assert (user("zoned@example.com")["time_zone"], user("zoned@example.com")["is_admin"]) == ("Asia/Kathmandu", False)

    last = "tocsin: This is the last administrator: make somebody else one first, with `tocsin users set EMAIL --admin`.\n"
    for act in (
        ["set", "first@example.com", "--no-admin", "--time-zone", "UTC"],
        ["disable", "first@example.com"],
        ["delete", "first@example.com"],
    ):
        assert client("users", *act, *here) == (1, "", last)
    assert (user("first@example.com")["time_zone"], user("first@example.com")["is_admin"]) == (None, True)
    assert client("users", "set", "zoned@example.com", "--admin", *here).code == 0
    assert client("users", "set", "first@example.com", "--no-admin", *here).code == 0
    assert client("users", "set", "zoned@example.com", "--no-admin", *here) == (1, "", last)
    assert client("users", "set", "first@example.com", "--admin", *here).code == 0
    assert client("users", "delete", "zoned@example.com", *here).code == 0


@pytest.mark.parametrize(
    ("set", "address"),
    [
        ({}, None),  # where it listens, though --port chose it
        ({"TOCSIN_URL": "http://tocsin.lan:1"}, "http://tocsin.lan:1"),
        ({"TOCSIN_URL": "http://tocsin.lan:1", "TOCSIN_BASE_URL": "https://example.com/tocsin/"}, "https://example.com/tocsin"),
    ],
)
def test_the_link_for_a_new_user_leads_to_the_service(cli: Cli, service: Running, set: dict[str, str], address: str | None) -> None:
    email = f"invited{len(set)}@example.com"
    link = cli("users", "add", email, "--data-dir", str(service.data_dir), **set)
    assert link.out.startswith(f"{address or service.url}/sign-in/")
    assert cli("users", "delete", email, "--yes", "--data-dir", str(service.data_dir)).code == 0


def test_a_key_that_was_just_used_was_not_never_used(client: Cli, service: Running) -> None:
    here = ["--data-dir", str(service.data_dir)]
    key = client("keys", "add", "fresh", "--user", "first@example.com", *here).out.strip()

    def last_used() -> str | None:
        return next(row["last_datetime"] for row in json.loads(client("keys", "list", "--json", *here).out) if row["name"] == "fresh")

    assert last_used() is None
    assert client("handlers", "list", TOCSIN_API_KEY=key).code == 0
    assert last_used() is not None


@pytest.mark.parametrize(
    "arguments",
    [
        *(["users", "list"], ["users", "add", "a@example.com"], ["keys", "list"], ["keys", "add", "x", "--user", "a@example.com"]),
        ["secrets", "rotate"],
    ],
)
def test_without_a_store_nothing_is_made(cli: Cli, tmp_path: Path, arguments: list[str]) -> None:
    result = cli(*arguments, "--data-dir", str(tmp_path / "nothing"))
    assert (result.code, result.out, len(result.err.splitlines())) == (1, "", 1)
    assert "There is no store" in result.err
    assert not (tmp_path / "nothing").exists()


# --------------------------------------------------------------------------------------------------------------- serve


def test_a_second_service_on_the_same_data_is_refused(service: Running) -> None:
    done = subprocess.run(
        [COMMAND, "serve", "--port", "0", "--data-dir", service.data_dir], env=clean_environ(), capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "Another tocsin is already serving the data directory" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("arguments", "environ"), [(("--role", "worker"), {}), ((), {"TOCSIN_ROLE": "api"})])
def test_one_process_serves_a_sqlite_store(cli: Cli, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
    result = cli("serve", *arguments, **environ)
    assert result.code == 1 and "TOCSIN_DATABASE_URL" in result.err and len(result.err.splitlines()) == 1
    assert cli("serve", "--role", "boss").code == 2


def test_bad_settings_are_all_said_before_anything_starts(cli: Cli, tmp_path: Path) -> None:
    result = cli("serve", TOCSIN_PORT="x", TOCSIN_UNKNOWN="maybe", TOCSIN_DATABASE_URL="mysql://h/d")
    assert result.code == 1
    assert sorted(line.split()[1] for line in result.err.splitlines()) == ["TOCSIN_DATABASE_URL", "TOCSIN_PORT", "TOCSIN_UNKNOWN"]
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- settings


def test_settings_lists_every_option_and_no_secret(cli: Cli) -> None:
    from tocsin.settings import OPTIONS

    result = cli("settings", TOCSIN_SMTP_URL="smtp://u:hunter2@h", TOCSIN_PORT="9000", TOCSIN_RATE_LIMIT="not a number")
    assert result.code == 0
    lines = {line.split()[0]: line for line in result.out.splitlines()[1:]}
    assert list(lines) == [option.variable for option in OPTIONS]
    assert "set (environment)" in lines["TOCSIN_SMTP_URL"] and "hunter2" not in result.out
    assert "9000 (environment)" in lines["TOCSIN_PORT"] and "8700" in lines["TOCSIN_PORT"]
    rows = {row["variable"]: row for row in json.loads(cli("settings", "--json", TOCSIN_SMTP_URL="smtp://u:hunter2@h").out)}
    assert rows["TOCSIN_SMTP_URL"]["value"] == "set" and rows["TOCSIN_PORT"]["value"] is None


# ---------------------------------------------------------------------------------------------------------------- check

LAX = {"TOCSIN_SMTP_URL": "smtp://mail.example.com?tls=optional", "TOCSIN_EMAIL_FROM": "a@example.com"}


def test_a_fresh_machine_has_nothing_wrong(cli: Cli) -> None:
    result = cli("check")
    assert result.code == 0
    assert "wrong" not in result.out and "TOCSIN_SMTP_URL" in result.out
    assert "There is no store in" in result.out and result.out.endswith("No problems found in the settings; there is no store to check.\n")


def test_where_there_is_a_store_nothing_is_said_of_a_missing_one(tmp_path: Path, cli: Cli) -> None:
    Service(tmp_path / "service").start().kill()
    result = cli("check", "--data-dir", str(tmp_path / "service" / "data"))
    assert "no store" not in result.out and result.out.endswith("No problems found.\n")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TOCSIN_PROT": "1"}, "did you mean TOCSIN_PORT?"),
        ({"TOCSIN_COMPLETELY_ELSE": "1"}, "TOCSIN_COMPLETELY_ELSE is not a setting"),
        ({"TOCSIN_PORT_FILE": "/x"}, "only secrets are read from files"),
        ({"TOCSIN_PORT": "x"}, "TOCSIN_PORT must be a whole number"),
        ({"TOCSIN_API_KEY_FILE": "/no/such/file"}, "TOCSIN_API_KEY cannot be read"),
        ({"TOCSIN_TRUSTED_PROXIES": "0.0.0.0/0"}, "TOCSIN_TRUSTED_PROXIES trusts every address"),
        ({"TOCSIN_ALLOW_NETWORKS": "::/0"}, "TOCSIN_ALLOW_NETWORKS opens every network"),
        ({"TOCSIN_SECRET_KEY": "short"}, "fewer than 16 characters"),
        ({"TOCSIN_SECRET_KEY": "a" * 20 + ",,"}, "empty key"),
        ({"TOCSIN_SMTP_URL": "smtps://hunter2@mail.example.com"}, "no password"),
        ({"TOCSIN_SMTP_URL": "smtp://u@mail.example.com", "TOCSIN_SMTP_OAUTH_TOKEN_URL": "https://x.example/t"}, "OAUTH_CLIENT_ID"),
        ({"TOCSIN_SMTP_OAUTH_TOKEN_URL": "http://hunter2@x.example/t"}, "must be an https URL"),
        ({"TOCSIN_CA_FILE": "/no/such/file"}, "TOCSIN_CA_FILE must name a readable file"),
        ({"SSL_CERT_FILE": "/no/such/file"}, "SSL_CERT_FILE names no file"),
        ({"SSL_CERT_DIR": "/no/such/folder"}, "SSL_CERT_DIR names no folder"),
        ({"TOCSIN_BASE_URL": "https://user:hunter2@tocsin.example.com"}, "TOCSIN_BASE_URL must not contain a user name or password"),
        ({"TOCSIN_UNIX_SOCKET": "/run/" + "s" * 103}, "TOCSIN_UNIX_SOCKET must be at most 107 bytes"),
        ({"TOCSIN_UNIX_SOCKET": "/no/such/folder/socket"}, "the folder /no/such/folder does not exist"),
    ],
)
def test_what_is_wrong_is_found(cli: Cli, variables: dict[str, str], said: str) -> None:
    result = cli("check", **variables)
    assert result.code == 1
    assert [line for line in result.out.splitlines() if line.startswith("wrong  ") and said in line]
    assert "hunter2" not in result.out


def test_check_prints_json(cli: Cli) -> None:
    result = cli("check", "--json", TOCSIN_PORT="x", TOCSIN_ALLOW_NETWORKS="::/0")
    assert result.code == 1
    wrong = [one for one in json.loads(result.out) if one["level"] == "wrong"]
    assert [(one["what"], one["sentence"].split()[0]) for one in wrong] == [
        ("settings", "TOCSIN_PORT"),
        ("outgoing", "TOCSIN_ALLOW_NETWORKS"),
    ]
    clean = cli("check", "--json")
    assert (clean.code, clean.err) == (0, "")
    assert {one["level"] for one in json.loads(clean.out)} == {"note"}
    assert {one["what"] for one in json.loads(clean.out)} >= {"store", "mail"}


def test_serve_names_what_no_setting_is_called(start_service: Starter) -> None:
    service = start_service(TOCSIN_RETRY_SCHEDUL="1s")
    said = "tocsin: TOCSIN_RETRY_SCHEDUL is not a setting: did you mean TOCSIN_RETRY_SCHEDULE?"
    until(lambda: said in service.log(), what="it was not logged")


def test_one_broken_setting_does_not_hide_the_others(cli: Cli) -> None:
    result = cli("check", TOCSIN_PORT="x", TOCSIN_PROT="y", TOCSIN_ALLOW_NETWORKS="0.0.0.0/0")
    assert result.out.count("wrong  ") == 3 and "3 problems found." in result.out


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"TOCSIN_HOST": "0.0.0.0"}, "unencrypted"),
        (LAX, "no certificate is checked"),
        ({"TOCSIN_TRUSTED_PROXIES": "10.0.0.0/8"}, "TOCSIN_BASE_URL"),
    ],
)
def test_what_may_be_meant_is_only_noted(cli: Cli, variables: dict[str, str], said: str) -> None:
    result = cli("check", **variables)
    assert result.code == 0
    assert [line for line in result.out.splitlines() if line.startswith("note   ") and said in line]


def test_the_data_folder_is_looked_at(cli: Cli, service: Running, tmp_path: Path) -> None:
    assert cli("check", "--data-dir", str(service.data_dir)).code == 0
    (tmp_path / "file").write_text("")
    assert "is not a folder" in cli("check", "--data-dir", str(tmp_path / "file")).out
    key = service.data_dir / "secret.key"
    key.chmod(0o644)
    try:
        result = cli("check", TOCSIN_DATA_DIR=str(service.data_dir))
        assert result.code == 1 and f"chmod 600 {key}" in result.out
        assert key.read_text().strip() not in result.out
    finally:
        key.chmod(0o600)
    assert "another key" in cli("check", TOCSIN_DATA_DIR=str(service.data_dir), TOCSIN_SECRET_KEY="w" * 40).out


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_is_found(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "not writable" in cli("check", "--data-dir", str(tmp_path / "locked" / "data")).out


def test_a_dotenv_that_cannot_be_read_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"TOCSIN_HOST=\xff\xfe\n")
    for command in (["check"], ["settings"], ["handlers", "list"], ["serve"]):
        assert cli(*command) == Result(1, "", "tocsin: The file .env cannot be read: UnicodeDecodeError.\n")


# ------------------------------------------------------------------------------------------------------- the command itself


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["send"], ["serve", "--port", "65536"], ["send", "x", "--severity", "loud"], ["users", "add"]]
)
def test_wrong_usage_is_exit_code_2_and_one_line(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
    assert "--help" in result.err


COMMANDS = (
    "|serve|demo|send|handlers|handlers list|handlers add|handlers test|deliveries|deliveries list|deliveries retry|users|users add"
    "|users password|users set|users disable|users delete|users list|keys|keys add|keys list|keys revoke|settings|check"
)


@pytest.mark.parametrize("command", COMMANDS.split("|"))
def test_every_command_has_help_for_itself_and_its_options(cli: Cli, command: str) -> None:
    result = cli(*command.split(), "--help")
    assert result.code == 0 and result.out.startswith(f"Usage: {f'tocsin {command}'.strip()}")
    assert "  :param" not in result.out and "Parameters\n" not in result.out


def test_help_loads_nothing_heavy() -> None:
    heavy = ("sqlalchemy", "uvicorn", "starlette", "pycurl", "aiosmtpd", "alembic", "css_inline", "tocsin.app", "tocsin.channels")
    code = (
        f"import sys, tocsin.cli; tocsin.cli.run(['--help']); print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_the_service_loads_no_command_line(start_service: Starter) -> None:
    said = start_service(from_scratch=True, PYTHONPROFILEIMPORTTIME="1").log()
    imported = set(re.findall(r"\| +(\S+)\n", said))
    assert "tocsin.app" in imported
    assert imported & {"cyclopts", "rich.console", "pygments", "attr"} == set()


def test_the_console_script_prints_its_version() -> None:
    from tocsin import __version__

    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, f"tocsin {__version__}")


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.long),
        pytest.param({"PYTHONIOENCODING": "ascii:strict"}, marks=pytest.mark.long),
    ],
)
def test_a_terminal_without_the_letters_fails_no_command(
    client: Cli, service: Running, receiver: Receiver, variables: dict[str, str], tmp_path: Path
) -> None:
    handler = str(added(client, receiver, "/korean", "백업"))
    sent = client("send", "사용", "--title", "디스크", "--handler", handler, "--wait", "--json")
    assert sent.code == 0
    notification = str(json.loads(sent.out)["id"])
    environ = clean_environ(TOCSIN_URL=service.url, TOCSIN_API_KEY=KEY, TOCSIN_DATA_DIR=str(service.data_dir), **variables)

    def said(*arguments: str) -> str:
        done = subprocess.run([COMMAND, *arguments], env=environ, cwd=tmp_path, capture_output=True, timeout=60)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), (arguments, done.stderr)
        return done.stdout.decode("latin-1")

    assert re.search(r"delivered  \?\? \(delivery \d+, 1 attempt\)", said("send", "사용", "--handler", handler, "--wait"))
    for command in (
        "handlers list",
        f"handlers show {handler}",
        "deliveries list",
        "notifications list",
        f"notifications show {notification}",
    ):
        assert "??" in said(*command.split())
    assert "??" in said("preview", "사용", "--handler", handler) and "handler.added" in said("audit")
    assert "tk_kkkk?" in said("keys", "list")
    for command in ("users list", "settings", "check", "--help", "completion bash"):
        assert said(*command.split())
    assert json.loads(said("handlers", "show", handler, "--json"))["name"] == "백업"
    assert "백업" in {json.loads(line)["name"] for line in said("audit", "--json").splitlines()}


@pytest.mark.parametrize("columns", ["0", "00", ""])
def test_a_width_that_is_not_known_hides_nothing(columns: str, tmp_path: Path) -> None:
    environ = clean_environ(COLUMNS=columns)
    for words, said in ((["settings"], "TOCSIN_DATA_DIR"), (["handlers", "--help"], "enable")):
        command = [sys.executable, "-m", "tocsin", *words]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "") and said in done.stdout


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """As in `tocsin settings --json | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [COMMAND, "settings", "--json"], stdout=writing, stderr=subprocess.PIPE, env=clean_environ(), cwd=tmp_path, timeout=60
    )
    os.close(writing)
    assert done.stderr == b""


@pytest.mark.parametrize("command", ["settings", "settings --json", "--version", "send --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_the_output_is_one_sentence(command: str, unbuffered: str, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [COMMAND, *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            env=clean_environ(PYTHONUNBUFFERED=unbuffered),
            cwd=tmp_path,
            timeout=60,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "tocsin: Could not write the output or a file: No space left on device. The command may have done its work all the same.\n"
    )
