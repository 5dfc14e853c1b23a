"""Languages of the pages: English in the templates, others from gettext catalogues."""

import functools
import io
from collections.abc import Callable, Sequence
from gettext import GNUTranslations, NullTranslations
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from tocsin.flow.words import amounts

FOLDER = Path(__file__).parent / "locale"
LANGUAGES = {"en": "English", "ko": "한국어"}
DEFAULT = "en"
Translate = Callable[[str], str]


def N_(text: str) -> str:  # noqa: N802  # gettext's own name for marking a text that is translated elsewhere
    return text


@functools.cache
def translations(language: str) -> NullTranslations:
    """The catalogue of a language, read once; that of English is empty."""
    if language == DEFAULT:
        return NullTranslations()
    with (FOLDER / f"{language}.po").open("rb") as file:
        catalogue = read_po(file, locale=language)
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return GNUTranslations(compiled)


def choose(wanted: str | None, accepted: str) -> str:
    """The language asked for by name, else the best of an Accept-Language header (RFC 9110 12.5.4)."""
    if wanted in LANGUAGES:
        return wanted
    for language in _by_preference(accepted):
        if language in LANGUAGES:
            return language
    return DEFAULT


def _by_preference(accepted: str) -> Sequence[str]:
    weighted: list[tuple[float, str]] = []
    for part in accepted[:500].split(","):
        name, _, parameters = part.strip().partition(";")
        try:
            weight = float(parameters.strip().removeprefix("q=") or 1)
        except ValueError:
            continue
        if weight > 0:
            weighted.append((weight, name.partition("-")[0].lower()))
    return [name for _, name in sorted(weighted, key=lambda pair: -pair[0])]


def span(seconds: float, _: Translate) -> str:
    """A length of time in words, as exact as people need it."""
    if seconds < 1:
        return _("{n} ms").format(n=round(max(0.0, seconds) * 1000))
    units = {"s": _("{n} s"), "min": _("{n} min"), "h": _("{n} h"), "d": _("{n} days")}
    return " ".join([units[unit].format(n=n) for n, unit in amounts(round(seconds))])
