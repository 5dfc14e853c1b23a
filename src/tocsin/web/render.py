"""Templates, and how times, states and rates are written in them."""

import functools
import re
from collections.abc import Callable, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context, select_autoescape
from jinja2.runtime import Context
from markupsafe import Markup

from tocsin import __version__, clock, zones
from tocsin.api.parameters import OPTIONAL
from tocsin.channels.contract import Field
from tocsin.channels.registry import CHANNELS
from tocsin.clock import SECOND, Micros
from tocsin.flow.handlers.states import HandlerState, met
from tocsin.flow.handlers.trial import Trial
from tocsin.flow.people.access import SCOPES
from tocsin.flow.words import Event, beside, hint, sentence
from tocsin.model import Attempt, Delivery, Fault, Reason, Sentence, Severity, Status, adds_to
from tocsin.web import assets, audit_words, charts
from tocsin.web.details import retold
from tocsin.web.language import LANGUAGES, N_, Translate, span, translations

_TEMPLATES = Path(__file__).parent / "templates"
BADGES = {
    Status.PENDING: "amber",
    Status.DELIVERED: "green",
    Status.FAILED: "red",
    Status.EXPIRED: "grey",
    Status.CANCELLED: "grey",
    Status.SKIPPED: "grey",
}


STATUS_WORDS = {
    Status.PENDING: N_("Waiting"),
    Status.DELIVERED: N_("Delivered"),
    Status.FAILED: N_("Failed"),
    Status.EXPIRED: N_("Expired"),
    Status.CANCELLED: N_("Cancelled"),
    Status.SKIPPED: N_("Skipped"),
}
SEVERITY_WORDS = {
    Severity.INFO: N_("Info"),
    Severity.SUCCESS: N_("Success"),
    Severity.WARNING: N_("Warning"),
    Severity.CRITICAL: N_("Critical"),
}
SCOPE_WORDS = {
    "handlers:read": N_("read handlers"),
    "handlers:write": N_("change and test handlers"),
    "notifications:send": N_("send notifications"),
    "deliveries:read": N_("read deliveries"),
    "deliveries:write": N_("cancel and retry deliveries"),
}


@functools.cache
def _environment(language: str) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    catalogue = translations(language)
    cast(Any, environment).install_gettext_translations(catalogue, newstyle=True)
    _ = catalogue.gettext
    filters = cast("dict[str, Any]", environment.filters)
    for write in (span, in_short, in_full, detail_of, story, told, why, described, verdict, advice, trouble, retold):
        filters[write.__name__] = functools.partial(write, _=_)
    filters["verdict_beside"] = verdict_beside
    for write in (ago, since, next_one, next_try, next_step):  # with the exact time on hover, in the reader's zone
        filters[write.__name__] = pass_context(functools.partial(_in_zone, write, _=_))
    filters["exact"] = pass_context(_exact)
    cast("dict[str, Any]", environment.globals).update(
        t=_,  # for texts from elsewhere; the templates' own use `_("...")`, which also takes values
        version=__version__,
        static=assets.version(),
        languages=LANGUAGES,
        channels=CHANNELS,
        scopes=SCOPES,
        badges=BADGES,
        status_words=STATUS_WORDS,
        severity_words=SEVERITY_WORDS,
        scope_words=SCOPE_WORDS,
        act_words=audit_words.ACT_WORDS,
        via_words=audit_words.VIA_WORDS,
        detail_words=audit_words.DETAIL_WORDS,
        value_words=audit_words.VALUE_WORDS,
        Status=Status,
        Severity=Severity,
        spark=charts.spark,
        lines=charts.lines,
        zone_names=zones.names,
        offset=zones.offset,
        state_badge=state_badge,
        is_unsubscribed=is_unsubscribed,
        state_words=STATE_WORDS,
        input_type=input_type,
    )
    return environment


def template(language: str, file: str, /, *, faults: Sequence[Fault] = (), **values: Any) -> str:
    """A template in a language, with the time and the errors of the last form, by field. The visit adds what every page has."""
    by_field: dict[str, Sentence] = {}
    for fault in faults:
        by_field.setdefault((fault.parameter or "").partition("[")[0], fault.sentence)
    return _environment(language).get_template(file).render(language=language, faults=by_field, now=clock.now(), **values)


_OWN_PATH = re.compile(r'(\s(?:href|src|action|formaction|data-[a-z-]+|hx-[a-z-]+)=")(?=/(?!/))')


def under_prefix(content: str, prefix: str) -> str:
    """A page whose links lead to pages under this path: the one place where a sub-path is added.

    What users wrote cannot match: its quotes are escaped.
    """
    return _OWN_PATH.sub(rf"\g<1>{prefix}", content)


# ---------------------------------------------------------------------------------------------------------------- words


def _in_zone(write: Callable[..., Markup], context: Context, what: Micros | Delivery | None, *more: Micros | None, _: Translate) -> Markup:
    return write(what, context["zone"], _, *more)


def _exact(context: Context, at: Micros) -> str:
    return zones.shown(at, context["zone"])


def ago(at: Micros | None, zone: tzinfo, _: Translate) -> Markup:
    """A moment relative to now, the exact one on hover."""
    if at is None:
        return Markup("<span>{}</span>").format(_("never"))
    seconds = (clock.now() - at) / SECOND
    words = _("{span} ago").format(span=span(seconds, _)) if seconds >= 0 else _("in {span}").format(span=span(-seconds, _))
    if abs(seconds) < 1:
        words = _("just now") if seconds >= 0 else _("now")
    return _time(at, zone, words)


def _time(at: Micros, zone: tzinfo, words: str) -> Markup:
    moment = zones.local(at, zone)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(timespec="seconds"), zones.shown(at, zone), words)


def story(event: Event, _: Translate) -> str:
    """What happened, in the reader's language."""
    values = {name: _within(value, _) if name in {"what", "why"} else value for name, value in event.values.items()}
    return _(event.template).format(**values, **{name: span(length / SECOND, _) for name, length in event.spans.items()})


def told(sentence: Sentence, _: Translate) -> str:
    """A sentence in the reader's language, including those of its values that are our own words."""
    values = {name: _(value) if name in {"title", "element", "other"} else value for name, value in sentence.values.items()}
    return _(sentence.template).format(**values) if values else _(sentence.template)


def _within(text: str, _: Translate) -> str:
    """A sentence inside another one, so its full stop may be missing."""
    return _(text) if text.endswith(".") else _(f"{text}.").removesuffix(".")


def why(row: Delivery, _: Translate) -> str:
    """Why a delivery waits or did not arrive, as a sentence, and what was said; empty if it arrived."""
    if row.status is Status.DELIVERED or (row.last_reason is None and not row.last_error):
        return ""
    if row.last_reason is None:
        return retold(row.last_error or "", _)
    reason, detail = met(row.last_reason, row.last_error)
    ended = [] if reason is row.last_reason else [row.last_reason]  # for example with its expiry
    return _sentences([*ended, reason], detail, _)


def _sentences(reasons: Sequence[Reason | None], detail: str, _: Translate) -> str:
    """Reasons, and what was said beside the last of them."""
    given = [one for one in reasons if one is not None]
    rest = beside(given[-1], detail) if given else detail
    return " ".join([*(_(sentence(one)) for one in given), retold(rest, _)]).strip()


def verdict_beside(attempt: Attempt, row: Delivery) -> str:
    """An attempt's verdict in words, where neither its answer nor the delivery's last error, which are shown beside it, say the same."""
    detail = attempt.detail or ""
    return "" if detail in (row.last_error or "") else adds_to(detail, attempt.response)


def reason_of(state: HandlerState, _: Translate) -> str:
    """What the latest attempt met, as a sentence."""
    return _(sentence(state.reason)) if state.reason is not None else ""


def in_short(state: HandlerState, _: Translate) -> str:
    """The same in a few words: an error's number and the words beside it say more than a sentence does."""
    if re.match(r"[45]\d\d\b", state.detail):
        return retold(state.detail, _)
    return reason_of(state, _) or retold(state.detail, _)


def detail_of(state: HandlerState, _: Translate) -> str:
    """What was said beside the reason, where the line in short does not say the same."""
    if state.reason is None or retold(state.detail, _) == in_short(state, _):
        return ""
    return retold(beside(state.reason, state.detail), _)


def in_full(state: HandlerState, _: Translate) -> str:
    """What the latest attempt met, with all that was said, and that its delivery has expired since."""
    if state.word == "switched_off":  # its detail is whole sentences
        return retold(state.detail, _)
    return _sentences([Reason.EXPIRED if state.has_expired else None, state.reason], state.detail, _)


def advice(state: HandlerState, _: Translate) -> str:
    """What to do about it; empty if there is nothing to do."""
    if is_unsubscribed(state):
        return _("If you enable it again, that address is asked to confirm first.")
    return _(hint(state.reason)) if state.reason is not None and hint(state.reason) else ""


def trouble(state: HandlerState, _: Translate) -> str:
    """The heading of a handler that is not well."""
    told = reason_of(state, _)
    if state.word == "switched_off":
        return _("Switched off by the service: nothing is sent to it.")
    if is_unsubscribed(state):
        return _("Somebody who reads mail at its address has unsubscribed.")
    return told or _("Its deliveries fail.")


def since(at: Micros, zone: tzinfo, _: Translate) -> Markup:
    """How long ago, without "ago"."""
    return _time(at, zone, span((clock.now() - at) / SECOND, _))


def next_one(at: Micros, zone: tzinfo, _: Translate) -> Markup:
    """When the next of those that wait can start."""
    return Markup(_("next {when}")).format(when=ago(at, zone, _))  # noqa: S704  # a text of ours


def next_try(at: Micros, zone: tzinfo, _: Translate) -> Markup:
    """When the next attempt is made."""
    if at <= clock.now():
        return Markup("<span>{}</span>").format(_("being tried now"))
    return Markup(_("next try {when}")).format(when=ago(at, zone, _))  # noqa: S704  # a text of ours


def next_step(row: Delivery, zone: tzinfo, _: Translate, expires_at: Micros | None) -> Markup:
    """What comes next for a delivery that waits: it is sent, or it expires before that."""
    now = clock.now()
    if expires_at is not None and expires_at <= row.due_at and not row.replays:  # once sent again by hand, it does not expire
        when = ago(max(now, expires_at), zone, _)
        return Markup(_("expires {when}")).format(when=when)  # noqa: S704  # a text of ours
    if row.attempt_count:
        return next_try(row.due_at, zone, _)
    if row.first_due_at > row.created_at and row.due_at > max(row.created_at, now):
        return Markup("{} {}").format(_("to be sent"), ago(row.due_at, zone, _))
    waits = Markup("{}").format(_("waiting for its turn"))
    return waits + Markup(", {}").format(ago(row.due_at, zone, _)) if row.due_at > now else waits


def verdict(trial: Trial, _: Translate) -> str:
    """What came of a test and what to do about it."""
    return retold(trial.hint, _)


def described(text: str, _: Translate) -> str:
    """A parameter's description; that of a handler's setting consists of three separate texts."""
    found = re.fullmatch(r"For type = (\w+): (.+?)\. (.+)", text)
    if found is None:
        return _(text)
    help = found[3].removesuffix(f" {OPTIONAL}")
    more = f" {_(OPTIONAL)}" if help != found[3] else ""
    return f"{_('For type = {type}').format(type=found[1])}: {_(found[2])}. {_(help)}{more}"


STATE_WORDS = {
    "ok": ("green", N_("Ready")),
    "failing": ("red", N_("Failing")),
    "unconfirmed": ("amber", N_("Not confirmed")),
    "paused": ("grey", N_("Paused by you")),
    "switched_off": ("red", N_("Switched off")),
}


UNSUBSCRIBED = ("grey", N_("Unsubscribed"))


def is_unsubscribed(state: HandlerState) -> bool:
    """Whether the recipient of its mails has paused it."""
    return state.word == "paused" and state.reason is Reason.UNCONFIRMED


def state_badge(state: HandlerState) -> tuple[str, str]:
    """A handler's state as colour and words."""
    return UNSUBSCRIBED if is_unsubscribed(state) else STATE_WORDS[state.word]


def input_type(field: Field) -> str:
    """The input type of a setting's field."""
    if field.example.startswith("http"):
        return "url"
    return "email" if "@" in field.example[1:] else "text"
