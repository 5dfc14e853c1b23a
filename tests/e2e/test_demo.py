"""The demo, as somebody who has just cloned the project runs it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tocsin.channels.registry import CHANNELS
from tocsin.cli.demo import providers, story
from tocsin.cli.demo.receivers import Arrivals, Receiver, free_port
from web.conftest import Surfer

COMMAND = Path(sys.executable).parent / "tocsin"
TITLES = set(story.TITLES.values())


def environ(folder: Path) -> dict[str, str]:
    """A machine on which somebody has set things that must not reach the demo; throw-away files go to `folder`."""
    theirs = {"TOCSIN_DATA_DIR": "/nowhere", "TOCSIN_SMTP_URL": "smtp://mail.example.com", "http_proxy": "http://127.0.0.1:9"}
    return {name: value for name, value in os.environ.items() if not name.startswith("TOCSIN_")} | theirs | {"TMPDIR": str(folder)}


def start(folder: Path, port: int, *arguments: str) -> subprocess.Popen[str]:
    command = [COMMAND, "demo", *arguments]
    variables = environ(folder) | {"TOCSIN_PORT": str(port)}
    return subprocess.Popen(command, env=variables, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_every_type_is_reached_and_nothing_is_left(tmp_path: Path, own_port: int) -> None:
    started_at = time.monotonic()
    with start(tmp_path, own_port, "--once") as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    arrived = {title for title in TITLES if re.search(rf"(?m)^[\d:]+ +{re.escape(title)} .*arrived +\d", output)}
    assert arrived == TITLES
    [seconds] = re.findall(r"All 9 types were reached ([\d.]+) s after the start", output)
    assert float(seconds) < 10 and time.monotonic() - started_at < 40
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stays_up_until_it_is_interrupted(tmp_path: Path, own_port: int, number: signal.Signals) -> None:
    with start(tmp_path, own_port) as process:
        assert process.stdout
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if {title for title in TITLES if any(title in line and "arrived" in line for line in lines)} == TITLES:
                break
        [(url, key)] = re.findall(r"export TOCSIN_URL=(\S+) TOCSIN_API_KEY=(tk_\w+)", "".join(lines))
        assert url == f"http://127.0.0.1:{own_port}"
        request = urllib.request.Request(f"{url}/api/notification-handlers", headers={"Authorization": f"Bearer {key}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as reply:
            registered = [handler["type"] for handler in json.load(reply)["data"]]
        assert sorted(registered) == sorted(CHANNELS)  # the revoked one comes with its scene, and spoils no first message before
        [link] = re.findall(r"http://\S+/sign-in/[\w-]+", "".join(lines))
        surfer = Surfer(url)
        path = link.removeprefix(url)
        assert surfer.post(path).path == "/"  # straight to the handlers: there is no password to set
        [password] = re.findall(r"sign in as demo@localhost with the password (\w+)", "".join(lines))
        assert Surfer(url).sign_in("demo@localhost", password).path == "/"
        pages = surfer.get("/").text
        assert all(f"#icon-{channel}" in pages for channel in CHANNELS)  # and show a handler of each type
        process.send_signal(number)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Stopped; nothing is left behind." in rest and "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=5)


def test_failures_are_part_of_it_and_heal(tmp_path: Path, own_port: int) -> None:
    """A 500, two throttles and a deleted webhook are shown, and what can arrive arrives all the same."""
    healed = re.compile(r"(?ms)Discord +(Database db-1 does not answer) +refused.*?Discord +\1 +arrived")
    throttled = re.compile(r"(?ms)Webhook +(Certificate expires in 7 days) +refused +throttled.*?Webhook +\1 +arrived")
    telegram = re.compile(r"(?ms)Telegram +(Database db-1 is back) +refused +throttled.*?Telegram +\1 +arrived")
    told = re.compile(r"(?ms)Slack +Queue is growing +refused +404 no_service.*?Discord +Handler switched off")
    seen = ""
    with start(tmp_path, own_port) as process:
        assert process.stdout
        for line in process.stdout:
            seen += line
            if all(pattern.search(seen) for pattern in (healed, throttled, telegram, told)):
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert [bool(pattern.search(seen)) for pattern in (healed, throttled, telegram, told)] == [True] * 4, seen


def test_a_port_in_use_is_passed_over(own_port: int) -> None:
    with socket.create_server(("127.0.0.1", own_port)):
        assert free_port(own_port) not in {0, own_port}
    assert free_port(own_port) == own_port


# ------------------------------------------------------------------------------- the receivers insist on what providers do


def posted(path: str, body: bytes, **headers: str) -> providers.Taken:
    return providers.Taken(f"http://127.0.0.1:1{path}", headers, body)


def test_an_unsigned_webhook_is_refused() -> None:
    endpoint = providers.webhook("whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
    assert endpoint.accept(posted("/hooks/alarm", b"{}")).status == 401
    stamp = str(int(time.time()))
    forged = {"webhook-id": "1", "webhook-timestamp": stamp, "webhook-signature": "v1,AAAA"}
    assert endpoint.accept(posted("/hooks/alarm", b"{}", **forged)).why.startswith("bad signature")


def test_an_unsigned_or_repeated_post_is_refused() -> None:
    from oauthlib.oauth1 import Client

    endpoint = providers.x("consumer-secret", "token-secret")
    signer = Client("key", client_secret="consumer-secret", resource_owner_key="1-token", resource_owner_secret="token-secret")
    _, headers, _ = signer.sign("http://127.0.0.1:1/2/tweets", "POST")
    assert endpoint.accept(posted("/2/tweets", b'{"text": "a"}')).status == 401
    assert (
        endpoint.accept(posted("/2/tweets", b'{"text": "a"}', authorization=headers["Authorization"].replace("1-token", "2-token"))).status
        == 401
    )
    assert endpoint.accept(posted("/2/tweets", b'{"text": "a"}', authorization=headers["Authorization"])).status == 201
    assert endpoint.accept(posted("/2/tweets", b'{"text": "a"}', authorization=headers["Authorization"])).why == "duplicate content"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"text": 1}', b'{"embeds": [{}]}', b'{"attachments": null}'])
def test_an_empty_chat_message_is_refused(body: bytes) -> None:
    for provider in providers.CHATS:
        assert provider.accept(posted("/", body)).status in {400, 404}
        assert provider.text(posted("/", body)) == ""


def test_scripted_answers_come_first_and_once() -> None:
    arrivals = Arrivals()
    receiver = Receiver(arrivals)
    receiver.play(providers.CHATS)
    receiver.fail_next("slack", receiver.provider("slack").throttled(7))
    url = f"{receiver.url}/services/T0DEMO/B0DEMO/dddd"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with receiver.running():
        with pytest.raises(urllib.error.HTTPError) as refused:
            opener.open(url, b'{"text": "Title &amp; more"}', timeout=10)
        assert (refused.value.code, refused.value.headers["Retry-After"]) == (429, "7")
        assert opener.open(url, b'{"text": "Title &amp; more"}', timeout=10).read() == b"ok"
        with pytest.raises(urllib.error.HTTPError):
            opener.open(f"{receiver.url}/elsewhere", b"{}", timeout=10)
    first, second = arrivals.get_nowait(), arrivals.get_nowait()
    assert (first.text, first.why, second.why) == ("Title & more", "throttled, 7 s", "")
    assert arrivals.empty()
