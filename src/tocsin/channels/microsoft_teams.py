"""Microsoft Teams through a Workflows webhook, as an Adaptive Card.

https://support.microsoft.com/office/create-incoming-webhooks-with-workflows-for-microsoft-teams-8ae491c7-0394-4861-ba59-055e33f75498
"""

import functools
import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tocsin import caches
from tocsin.channels.chat import JSON_HEADERS, KEPT, Look, body_of, document_of, fields_of, heading, look, number, plainest
from tocsin.channels.contract import (
    Channel,
    Context,
    Field,
    HandlerSettings,
    Pace,
    Size,
    classify_rest,
    is_page,
    lost,
    retry_after,
    said,
)
from tocsin.markup import tree
from tocsin.markup.cut import split
from tocsin.markup.length import cut, share
from tocsin.markup.remembered import once
from tocsin.markup.teams import BECOMES, CardElement, escape, remembering, teams, text_block
from tocsin.model import (
    Delivered,
    Gone,
    Hidden,
    HttpReply,
    HttpRequest,
    Later,
    Message,
    Outcome,
    Reason,
    Refused,
    Request,
    Severity,
)
from tocsin.net.urls import check_url, hide_after, hide_after_host, origin
from tocsin.settings import Settings
from tocsin.vault import fingerprint

# Messages over 28 KB are refused, inside the flow where nobody sees it: https://learn.microsoft.com/microsoftteams/limits-specifications-teams
# The flow puts the card into its own JSON as a string and measures that: https://github.com/MicrosoftDocs/msteams-docs/issues/11274
MAX_BYTES = 27_600  # of 28,672
FACTS_BYTES = 10_000  # of these, so that the message keeps its room
MAX_LINK_BYTES = 4_000
PLAIN_BYTES = 24_000  # for the one text of a plain card
VERSION = "1.4"  # newer cards "couldn't be displayed" for some tenants: https://github.com/prometheus/alertmanager/issues/3920
PACE, PACE_SECONDS = 2, 2.0  # the Teams action behind the webhook posts about one a second

_COLOURS = {Severity.INFO: "Accent", Severity.SUCCESS: "Good", Severity.WARNING: "Warning", Severity.CRITICAL: "Attention"}
_WORKFLOW_HOST = re.compile(r".+\.environment\.api\.powerplatform\.com|.+\.logic\.azure\.com")
_CONNECTOR_HOST = re.compile(r"(?:.+\.)?webhook\.office\.com|outlook\.office(?:365)?\.com")
_WORKFLOW_PATH = re.compile(
    r"(?P<public>(?:/powerautomate/automations/direct(?:/cu/[^/]+)?)?/workflows/[0-9A-Za-z-]+)/triggers/[^/]+/paths/invoke/?"
)
_SENDING_FAILED = re.compile(r"returned HTTP error (\d+)")

_TAKEN = 202
_FROM_PROXIES = frozenset({401, 403, 404, 410})
_GONE = {
    401: (Reason.UNAUTHORIZED, "The workflow does not accept this address's signature, or is limited to users of its tenant."),
    404: (Reason.NOT_FOUND, "The workflow was deleted, or its address has changed."),
    410: (Reason.GONE, "The workflow is gone."),
}


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")


def _is_official(url: str) -> bool:
    return _WORKFLOW_HOST.fullmatch(_host(url)) is not None


def _check(value: str) -> str | None:
    if (wrong := check_url(value)) is not None:
        return wrong
    parts = urlsplit(value)
    if _CONNECTOR_HOST.fullmatch(_host(value)):
        return "Microsoft has retired Office 365 connectors: make a webhook with the Workflows app in Teams and give its URL."
    if not _is_official(value):
        return None
    if parts.scheme != "https" or "@" in parts.netloc:
        return "The URL of a workflow must begin with https:// and the host's name."
    if not _WORKFLOW_PATH.fullmatch(parts.path):
        return "This is not the URL of a workflow's webhook trigger: its path ends in /workflows/.../triggers/manual/paths/invoke."
    if not dict(parse_qsl(parts.query)).get("sig"):
        return "The URL must be copied whole: its end, with sig=, is missing."
    return None


def _hide(value: str) -> Hidden:
    """Host and workflow id stay visible. The signature is also hidden by itself, raw and decoded: an answer may repeat it alone."""
    parts = urlsplit(value)
    match = _workflow(value)
    hidden = hide_after(value, len(origin(value)) + match.end("public") + 1) if match else hide_after_host(value)
    signature = re.search(r"(?:^|&)sig=([^&#]+)", parts.query)
    more = {signature[1], unquote(signature[1])} if signature else set[str]()
    return Hidden(hidden.shown, (*hidden.secrets, *sorted(more)))


def _workflow(value: str) -> re.Match[str] | None:
    """The path of a workflow's URL on Microsoft's own hosts; None for any other."""
    parts = urlsplit(value)
    return _WORKFLOW_PATH.fullmatch(parts.path) if _WORKFLOW_HOST.fullmatch(parts.hostname or "") and "@" not in parts.netloc else None


class TeamsSettings(HandlerSettings, frozen=True):
    microsoft_teams: Annotated[
        str,
        Field(
            title="Workflows webhook URL",
            help="In Teams, at the channel's menu: Workflows, 'Send webhook alerts to a channel', open to anyone; copy its URL whole.",
            example="https://example.environment.api.powerplatform.com/powerautomate/automations/direct/workflows/"
            "0123456789abcdef0123456789abcdef/triggers/manual/paths/invoke?api-version=1&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=...",
            check=_check,
            hide=_hide,
            is_address=True,
        ),
    ]


def target(settings: TeamsSettings) -> str:
    match = _workflow(settings.microsoft_teams)
    host = origin(settings.microsoft_teams).partition("://")[2]
    return f"{host}, workflow {match['public'].rpartition('/')[2][:8]}" if match else host


# -------------------------------------------------------------------------------------------------------------- render


def render(message: Message, settings: TeamsSettings, context: Context) -> tuple[HttpRequest, ...]:
    url, shown = settings.microsoft_teams, _shown(settings.microsoft_teams)
    return tuple(HttpRequest(url, shown, body, JSON_HEADERS) for body in _bodies(message, look(context)))


@caches.of_secrets(10_000)
def _shown(url: str) -> str:
    return _hide(url).shown


@functools.lru_cache(KEPT)
def _bodies(message: Message, look: Look) -> list[bytes]:
    return [msgspec.json.encode(envelope) for envelope in _envelopes(message, look)]


def _envelopes(message: Message, look: Look) -> list[dict[str, Any]]:
    """The message as a card, or as several if it is long; facts and link follow the last."""
    after, actions = _facts(message), _actions(message)
    if message.url and not actions:
        after.append(text_block("Link left out: too long or not for the web", isSubtle=True))

    def card(inside: list[CardElement], mark: str) -> dict[str, Any]:
        return _message_of([*_head(message, look, mark), *inside], [])

    def last_card(inside: list[CardElement], mark: str) -> dict[str, Any]:
        return _message_of([*_head(message, look, mark), *inside, *after], actions)

    document = document_of(message)
    whole = last_card(teams(document), "")
    if _size(whole) <= MAX_BYTES:
        return [whole] if not look.is_plain else [_plain_card(message, look, document, 0, 1)]
    widest = number(look.most_parts - 1, look.most_parts)  # as it is escaped
    limit, last_limit = (MAX_BYTES - _size(empty) for empty in (card([], widest), last_card([], widest)))
    render = remembering()
    parts = split(document, _measuring(render), limit, last_limit, look.most_parts)
    if look.is_plain:
        return [_plain_card(message, look, part, index, len(parts)) for index, part in enumerate(parts)]
    numbers = [number(index, len(parts)) for index in range(len(parts))]
    cards = [render(part) for part in parts]
    return [*map(card, cards[:-1], numbers[:-1]), last_card(cards[-1], numbers[-1])]


def _plain_card(message: Message, look: Look, part: tree.Document, index: int, total: int) -> dict[str, Any]:
    text = plainest(message, look, part, index, total)
    return _message_of([text_block(escape(cut(text, PLAIN_BYTES, _fact_size)))], [])


def _measuring(render: Callable[[tree.Document], list[CardElement]]) -> Callable[[tree.Document], int]:
    """Bytes of the elements that `render` gives, each block measured once."""

    def inside_of(block: tree.Block) -> int:
        return _size(render((block,))) - 2

    inside = once(inside_of)

    def size(document: tree.Document) -> int:
        sizes = [size for block in document if (size := inside(block))]
        return sum(sizes) + max(0, len(sizes) - 1) + 2  # the commas and brackets of a list

    return size


def _message_of(body: list[CardElement], actions: list[CardElement]) -> dict[str, Any]:
    card: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": VERSION,
        "msteams": {"width": "Full"},
        "body": body,
    }
    if actions:
        card["actions"] = actions
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _size(content: object) -> int:
    return _size_as_string(msgspec.json.encode(content))


def _size_as_string(content: bytes) -> int:
    """Bytes of JSON that is put into JSON once more, without the string's own quotation marks."""
    return len(content) + content.count(b'"') + content.count(b"\\")


def _head(message: Message, look: Look, mark: str) -> list[CardElement]:
    title = text_block(escape(heading(message) + mark), size="Large", weight="Bolder", color=_COLOURS[message.severity])
    return [title, text_block(escape(look.late), isSubtle=True, spacing="None")] if look.late else [title]


def _facts(message: Message) -> list[CardElement]:
    """The fields; if they are too long together, the longest are cut to the same length."""
    fields = fields_of(message)
    texts = [text for field in fields for text in field]
    cap = share([_fact_size(text) for text in texts], FACTS_BYTES)
    facts = [{"title": escape(cut(name, cap, _fact_size)), "value": escape(cut(value, cap, _fact_size))} for name, value in fields]
    return [{"type": "FactSet", "facts": facts}] if facts else []


def _fact_size(text: str) -> int:
    return _size(escape(text))


def _actions(message: Message) -> list[CardElement]:
    is_for_the_web = re.match(r"https?://", message.url, re.IGNORECASE)
    if not is_for_the_web or _size(message.url) > MAX_LINK_BYTES:
        return []
    return [{"type": "Action.OpenUrl", "title": "Open", "url": message.url}]


def measure(request: Request) -> tuple[Size, ...]:
    (attachment,) = body_of(request)["attachments"]
    size = _size_as_string(request.body) if isinstance(request, HttpRequest) else 0
    return (Size("message", size, MAX_BYTES, "bytes"), Size("elements of the card", len(attachment["content"]["body"]), None, "elements"))


# ------------------------------------------------------------------------------------------------------------ classify


def classify(reply: HttpReply, context: Context) -> Outcome:
    match reply:
        case HttpReply(status=status) if 200 <= status < 300:
            return _accepted(reply, context)
        case HttpReply(status=status) if status in _FROM_PROXIES and is_page(reply) and context.is_official:
            return Later(Reason.BAD_ANSWER, detail=said(reply))  # from something in front of Microsoft, whose own errors are JSON
        case HttpReply(status=status) if status in _GONE:
            reason, words = _GONE[status]
            return Gone(reason, f"{words} {said(reply)}")
        case HttpReply(status=403):
            return Refused(Reason.FORBIDDEN, said(reply))
        case HttpReply(status=413):
            return Refused(Reason.TOO_LARGE, said(reply), ours=True)
        case HttpReply():
            return classify_rest(reply, context)


def _accepted(reply: HttpReply, context: Context) -> Outcome:
    """A workflow's 202 means that the card was accepted, not that it was posted; nothing more is ever said.

    Connectors, and gateways modelled on them, answer 200 and put the error into the text:
    https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using#rate-limiting-for-connectors
    """
    failed = _SENDING_FAILED.search(reply.body[:10_000].decode("utf-8", "replace"))
    if not failed:
        is_said = reply.status == _TAKEN or reply.body.strip() == b"1"  # a workflow's yes, and a connector's
        return Delivered() if is_said else lost(reply) or Delivered()
    if failed[1] == "429":
        return Later(Reason.THROTTLED, retry_after(reply, context.now), counts=False, detail=said(reply))
    return Later(Reason.SERVER_ERROR, detail=said(reply))


# ------------------------------------------------------------------------------------------------------------- channel


def _paces(settings: TeamsSettings, _service: Settings) -> tuple[Pace, ...]:
    return (Pace(f"teams:{fingerprint(settings.microsoft_teams)}", PACE, PACE_SECONDS),)


CHANNEL = Channel(
    type="microsoft_teams",
    title="Microsoft Teams",
    about="To a channel or a chat, through a workflow.",
    settings=TeamsSettings,
    target=target,
    is_official=lambda settings: _is_official(settings.microsoft_teams),
    paces=_paces,
    render=render,
    classify=classify,
    measure=measure,
    becomes=BECOMES,
)
