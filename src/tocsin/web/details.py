"""Details that the store keeps in English, as readers of another language see them.

A detail is made of our own sentences and of what a provider said. Ours are translated; a provider's words stay as they are, and the
catalogue marks them as a quotation.
"""

import functools
import re
from collections.abc import Sequence

from tocsin.flow.words import hint, sentence
from tocsin.model import Reason
from tocsin.web.language import N_, Translate, span

OURS = (
    # From the wires.
    N_("The URL cannot be used."),
    N_("The host name does not resolve."),
    N_("Resolving the host name took too long."),
    N_("The operator can let the proxy look names up with TOCSIN_PROXY_RESOLVES."),
    N_("No connection was made in time."),
    N_("No connection was made: {words}."),
    N_("No secure connection was made: {words}."),
    N_("The URL's address is not public."),
    N_("The operator can open its network with TOCSIN_ALLOW_NETWORKS."),
    N_("The URL leads to the service's own listener, which URLs must not reach."),
    N_("Port {port} is closed to URLs."),
    N_("The operator can open it with TOCSIN_ALLOW_PORTS."),
    N_("The egress guard could not read the address of the host name."),
    N_("No file descriptor or no memory is left for another connection."),
    N_("The service stopped before anything went out."),
    N_("The service stopped before the whole answer came."),
    N_("The request cannot be written as HTTP: its URL or a header is malformed."),
    N_("The request went out, but no whole answer came in time."),
    N_("The connection ended before the whole answer came."),
    N_("The connection ended within the answer's header lines."),
    N_("The server refused the request each time without looking at it."),
    N_("The answer is not valid HTTP."),
    N_("The answer has too many header lines, or too long ones."),
    N_("The operator's proxy answered {status} instead of connecting to the target."),
    N_("The operator's proxy answered {status}, but the rest of its answer cannot be read."),
    N_("The operator's proxy answered {status}: it asks for a user and password."),
    N_("The operator's proxy does not answer."),
    N_("The operator's proxy cannot be reached."),
    N_("The operator's proxy lets no secure connection through."),
    N_("The operator's proxy makes tunnels, but no proper answer comes back."),
    N_("No mail server is configured, so e-mails wait until there is one."),
    N_("TOCSIN_EMAIL_FROM is not an address such as `tocsin <alarm@example.com>`, so no e-mail is sent"),
    N_("The mail server offers no STARTTLS; ?tls=optional in TOCSIN_SMTP_URL would send without."),
    N_("The mail server offers no login by PLAIN, LOGIN or CRAM-MD5."),
    N_("The mail server offers no login by XOAUTH2."),
    N_("Mail server {place}, {stage}: {words}"),
    N_("No access token for the mail account from {place}: {words}"),
    # From the channels.
    N_("The server says that this webhook is gone."),
    N_("Discord says that the webhook's channel no longer exists."),
    N_("Discord says that this webhook was deleted."),
    N_("Discord says that this webhook's token is no longer valid."),
    N_("Discord does not know the webhook's server."),
    N_("The webhook's channel is a forum: add ?thread_id=… of one of its posts to the URL."),
    N_("Google Chat says that this space or webhook no longer exists."),
    N_("The workflow does not accept this address's signature, or is limited to users of its tenant."),
    N_("The workflow was deleted, or its address has changed."),
    N_("The workflow is gone."),
    N_("Slack says that this webhook was deleted or switched off."),
    N_("Slack says that this workspace no longer exists."),
    N_("Slack says that the workspace has switched its incoming webhooks off."),
    N_("Slack says that this webhook's token is no longer valid."),
    N_("Slack says that this workspace was disabled."),
    N_("Slack says that the webhook's channel was archived."),
    N_("Slack says that an admin of the workspace does not allow this."),
    N_("Slack says that this webhook may not post to the general channel."),
    N_("Slack says that the webhook's channel does not exist."),
    N_("Slack says that the webhook's user does not exist."),
    N_("The group became a supergroup and has a new id."),
    N_("Telegram does not know this bot token: it was revoked, or the bot was deleted."),
    N_("The receiver answered 410 Gone: it wants no more messages."),
    N_("The mail server says that there is no such mailbox: {words}"),
    N_("X no longer accepts the keys and tokens: {words}"),
    N_("The X developer account has no credits left: {words}"),
    N_("X does not let this app or account post: {words}"),
    N_("X refused it as a duplicate: an earlier attempt had arrived."),
    # From the flow.
    N_("{count} deliveries in a row failed over {length}."),
    N_("The last failure: {own}"),
    N_("It may have arrived: no answer came back."),
    N_("The service ended during the attempt."),
    N_("The service was stopped while it waited for the answer."),
    N_("The message could not be rendered: this is a fault of the service."),
    N_("The message could not be rendered in time: this is a fault of the service."),
    N_("The rest of the message could not be rendered in time: this is a fault of the service."),
    N_("The provider's answer could not be read: this is a fault of the service."),
    N_("This is a fault of the service, not of the provider; it is in the log."),
    N_("The limit is {count} a day."),
    N_("The stored settings do not fit this type."),
    N_("The stored settings cannot be opened with the service's key."),
    N_("The worker that was to send it ended, or did not answer in time: the test may have arrived."),
    N_("The provider's rate limit left no slot within 30 seconds; try again later."),
    N_("A link to confirm it was mailed there."),
    N_("The person who reads mail at that address has to open it."),
    N_("The link to confirm it could not be mailed."),
    N_("Links to confirm it were mailed there several times today: look for the latest, or try again tomorrow."),
    N_("It was confirmed or changed at this moment: try again."),
    N_("The operator has to set TOCSIN_BASE_URL before a link to confirm it can be mailed."),
    # What keeps the service from working.
    N_("The store does not take writes."),
    N_("Nothing is sent: the engine does not run."),
    N_("Nothing goes out: {own}"),
    N_("The disk is full: make room, or nothing can be accepted and no outcome kept."),
    N_("The disk has no room left to fold in the store's log: stop the program that has long been reading the store, or make room."),
    N_("Another process holds the store locked."),
    N_("The store can only be read."),
    N_("The store cannot be opened."),
    N_("The store is damaged ({words}): stop the service, keep the data directory as it is, and restore a backup."),
    N_("The store cannot be written ({words})."),
    N_("The PostgreSQL server cannot be reached ({words})."),
    N_("The PostgreSQL server only lets the store be read: it is a standby, or was made read-only."),
    N_("The PostgreSQL server refuses the user of TOCSIN_DATABASE_URL."),
    N_("The PostgreSQL server refuses the user or the password of TOCSIN_DATABASE_URL."),
    N_("The PostgreSQL server has no database of the name in TOCSIN_DATABASE_URL."),
    N_("The user of TOCSIN_DATABASE_URL lacks a permission on the store's tables."),
    N_("The disk of the PostgreSQL server is full: make room, or nothing can be accepted and no outcome kept."),
    N_("The PostgreSQL server has no memory left."),
    N_("The PostgreSQL server takes no more connections: raise max_connections, or end other clients."),
    N_("The PostgreSQL server took too long for a statement."),
    N_("The store has been busy with one write for some time: the disk stalls, or another process holds it."),
    N_("Nearly all file descriptors are in use: raise LimitNOFILE."),
)
MAX_PARTS = 4  # of one sentence
_LENGTH = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def retold(text: str, _: Translate) -> str:
    """A detail in the reader's language."""
    if _(OURS[0]) == OURS[0]:  # the language that it is kept in
        return text
    parts = re.split(r"(?<=[.!?…]) +", text.strip())
    told: list[str] = []
    said: list[str] = []
    while parts:
        length, own = _beginning(parts, _)
        if own is None:
            said.append(parts.pop(0))
            continue
        told += [*_quoted(said, _), own]
        said.clear()
        del parts[:length]
    return " ".join([*told, *_quoted(said, _)])


def _beginning(parts: Sequence[str], _: Translate) -> tuple[int, str | None]:
    """The sentence of ours that the parts begin with, and how many of them it takes: an ellipsis inside a sentence splits it."""
    for length in range(1, min(len(parts), MAX_PARTS) + 1):
        if (own := _own(" ".join(parts[:length]), _)) is not None:
            return length, own
    return 0, None


def _quoted(said: Sequence[str], _: Translate) -> list[str]:
    words = " ".join(said)
    return [_("{said}").format(said=words)] if words else []


def _own(text: str, _: Translate) -> str | None:
    """A sentence of ours in the reader's language; None: it is not ours, or not translated."""
    for one in (text, text.removesuffix(".")):
        if one in _whole() and _(one) != one:
            return _(one)
    for pattern, template in _patterns():
        if (found := pattern.fullmatch(text)) is not None and _(template) != template:
            return _(template).format(**{name: _value(name, value, _) for name, value in found.groupdict().items()})
    return None


def _value(name: str, value: str, _: Translate) -> str:
    if name == "length":
        words = value.split(" ")
        return span(sum(float(number) * _LENGTH[unit] for number, unit in zip(words[::2], words[1::2], strict=True)), _)
    if name == "own":
        return _own(value[:1].upper() + value[1:], _) or value
    return _("{said}").format(said=value) if name == "words" else value


@functools.cache
def _whole() -> frozenset[str]:
    return frozenset({*OURS, *map(sentence, Reason), *map(hint, Reason)} - {""})


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    shapes = {"length": r"[\d.]+ (?:s|min|h|d)(?: \d+ (?:s|min))?", "count": r"\d+", "status": r"\d+", "port": r"\d+"}
    found: list[tuple[re.Pattern[str], str]] = []
    for template in OURS:
        if "{" in template:
            parts = re.split(r"\{(\w+)\}", template)
            named = [re.escape(part) if index % 2 == 0 else f"(?P<{part}>{shapes.get(part, '.+')})" for index, part in enumerate(parts)]
            found.append((re.compile("".join(named), re.DOTALL), template))
    return found
