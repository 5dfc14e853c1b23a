"""Templates, and how times, states and rates are written in them."""

import functools
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tocsin import __version__, observe
from tocsin.api.parameters import OPTIONAL
from tocsin.channels.registry import CHANNELS
from tocsin.flow.access import SCOPES
from tocsin.flow.trial import Trial
from tocsin.flow.words import Event, hint, sentence
from tocsin.model import SECOND, Delivery, Fault, Handler, Micros, Reason, Sentence, Severity, Status
from tocsin.web import assets, charts
from tocsin.web.language import LANGUAGES, translations

if TYPE_CHECKING:
    from tocsin.web.visit import Visit

Translate = Callable[[str], str]

_TEMPLATES = Path(__file__).parent / "templates"
BADGES = {
    Status.PENDING: "amber",
    Status.DELIVERED: "green",
    Status.FAILED: "red",
    Status.EXPIRED: "grey",
    Status.CANCELLED: "grey",
    Status.SKIPPED: "grey",
}


def N_(text: str) -> str:  # noqa: N802  # gettext's own name for marking a text that is translated elsewhere
    return text


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
    for write in (ago, span, story, told, why, described, verdict):
        filters[write.__name__] = functools.partial(write, _=_)
    filters["exact"] = exact
    cast("dict[str, Any]", environment.globals).update(
        t=_,  # for texts from elsewhere; the templates' own are `_("...")`, which takes values too
        version=__version__,
        static=assets.version(),
        languages=LANGUAGES,
        channels=CHANNELS,
        scopes=SCOPES,
        badges=BADGES,
        status_words=STATUS_WORDS,
        severity_words=SEVERITY_WORDS,
        scope_words=SCOPE_WORDS,
        Status=Status,
        Severity=Severity,
        spark=charts.spark,
        bars=charts.bars,
        lines=charts.lines,
        state=state,
    )
    return environment


def template(visit: "Visit", file: str, /, *, faults: Sequence[Fault] = (), **values: Any) -> str:
    """A template with what every page knows: who is there, the form token, and what was wrong with the last form, by field."""
    by_field: dict[str, Sentence] = {}
    for fault in faults:
        by_field.setdefault((fault.parameter or "").partition("[")[0], fault.sentence)
    environment = _environment(visit.language)
    pulse = {"pulse": visit.pulse, "troubles": visit.service.unready()} if visit.pulse is not None else {}
    return environment.get_template(file).render(
        visit=visit,
        visitor=visit.visitor,
        csrf=visit.csrf,
        language=visit.language,
        path=visit.request.url.path,
        faults=by_field,
        done=visit.request.query_params.get("done", ""),
        **pulse,
        **values,
    )


_OWN_PATH = re.compile(r'(\s(?:href|src|action|formaction|data-[a-z-]+|hx-[a-z-]+)=")(?=/(?!/))')


def under_prefix(content: str, prefix: str) -> str:
    """A page whose links lead to pages under this path: the one place where a sub-path comes into what templates write.

    What users wrote cannot match: its quotes are escaped.
    """
    return _OWN_PATH.sub(rf"\g<1>{prefix}", content)


# ---------------------------------------------------------------------------------------------------------------- words


def span(seconds: float, _: Translate) -> str:
    """A length of time in words, as exact as people need it."""
    if seconds < 1:
        return _("{n} ms").format(n=round(max(0.0, seconds) * 1000))
    for most, size, words in ((90, 1, _("{n} s")), (5400, 60, _("{n} min")), (172_800, 3600, _("{n} h"))):
        if seconds < most:
            return words.format(n=round(seconds / size))
    return _("{n} days").format(n=round(seconds / 86_400))


def ago(at: Micros | None, _: Translate) -> Markup:
    """A moment relative to now, the exact one on hover."""
    if at is None:
        return Markup("<span>{}</span>").format(_("never"))
    seconds = (observe.now() - at) / SECOND
    words = _("{span} ago").format(span=span(seconds, _)) if seconds >= 0 else _("in {span}").format(span=span(-seconds, _))
    if abs(seconds) < 1:
        words = _("just now")
    moment = datetime.fromtimestamp(at / SECOND, UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(timespec="seconds"), exact(at), words)


def exact(at: Micros) -> str:
    return f"{datetime.fromtimestamp(at / SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC"


def story(event: Event, _: Translate) -> str:
    """What happened, in the reader's language."""
    values = {name: _within(value, _) if name in {"what", "why"} else value for name, value in event.values.items()}
    return _(event.template).format(**values, **{name: span(length / SECOND, _) for name, length in event.spans.items()})


def told(sentence: Sentence, _: Translate) -> str:
    """A sentence in the reader's language; of its values those that are words of ours, too."""
    values = {name: _(value) if name in {"title", "element", "other"} else value for name, value in sentence.values.items()}
    return _(sentence.template).format(**values) if values else _(sentence.template)


def _within(text: str, _: Translate) -> str:
    """A sentence that stands within another, so its full stop may be missing."""
    return _(text) if text.endswith(".") else _(f"{text}.").removesuffix(".")


def why(row: Delivery, _: Translate) -> str:
    """Why a delivery stands where it does; empty for one that arrived."""
    if row.status is Status.DELIVERED:
        return ""
    return row.last_error or (_(sentence(row.last_reason)) if row.last_reason is not None else "")


def verdict(trial: Trial, _: Translate) -> str:
    """What came of a test and what to do about it; the provider's own words stay as they are."""
    reason = Reason(trial.reason)
    told = trial.hint
    for text in filter(None, (sentence(reason), hint(reason))):
        told = told.replace(text, _(text))
    return told


def described(text: str, _: Translate) -> str:
    """A parameter's description; of a handler's setting the three parts are texts of their own."""
    found = re.fullmatch(r"For type = (\w+): (.+?)\. (.+)", text)
    if found is None:
        return _(text)
    help = found[3].removesuffix(f" {OPTIONAL}")
    more = f" {_(OPTIONAL)}" if help != found[3] else ""
    return f"{_('For type = {type}').format(type=found[1])}: {_(found[2])}. {_(help)}{more}"


def state(handler: Handler) -> tuple[str, str]:
    """A handler's state as colour and words."""
    if handler.is_enabled:
        return "green", N_("Ready")
    return ("red", N_("Switched off")) if handler.disabled_reason else ("grey", N_("Paused by you"))
