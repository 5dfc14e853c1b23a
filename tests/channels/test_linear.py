"""Rendering takes work in proportion to a text's length, whatever the text repeats: counted in calls, which no machine changes."""

import cProfile
import importlib
import time

import pytest

from shapes import SHAPES, UNITS, text_of
from tocsin.channels.contract import settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.markup.markdown import markdown, with_links_apart
from tocsin.markup.parse import parse
from tocsin.model import Message, Severity
from wild import AT, context

# Calls for a character, by the length of the text. Up to 64 are usual at either length, while what is measured again for each of its
# items (600 at 65,536 characters, in a list) grows with it: at half the length the limit is lower, to find the same mistakes.
MAX_CALLS = {32_768: 100, 65_536: 140}
# Where blocks, items and marks are laid out, measured and cut: the others take no other way through our code.
ELSEWHERE = "slack at another host"
LAID_OUT = [*[kind for kind in CHANNELS if kind not in {"webhook", "x"}], ELSEWHERE]
NAMES = [
    *("items", "tasks", "nested items", "headings", "quotes", "short lines", "long table", "chain", "links"),
    *("deep items, items", "items + headings"),
]


def calls_of(kind: str, text: str) -> int:
    kind, sample = ("slack", 1) if kind == ELSEWHERE else (kind, 0)
    settings = settings_of(CHANNELS[kind], importlib.import_module(f"channels.test_{kind}").SAMPLES[sample])
    message = Message(text, "Title", Severity.WARNING, "https://example.com/x", (("host", "db-1"),), AT)
    parse(text)
    profile = cProfile.Profile()
    profile.runcall(CHANNELS[kind].render, message, settings, context())
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("size", [32_768, pytest.param(65_536, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", LAID_OUT)
def test_a_long_text_takes_few_calls_for_a_character(kind: str, name: str, size: int):
    assert calls_of(kind, text_of(name, size)) <= MAX_CALLS[size] * size


@pytest.mark.long
@pytest.mark.parametrize("name", [*UNITS, *SHAPES])
@pytest.mark.parametrize("kind", LAID_OUT)
def test_four_times_the_text_takes_nowhere_near_sixteen_times_the_calls(kind: str, name: str):
    """How often a text is tried before it fits varies, by a factor of two at the most."""
    quarter, whole = (calls_of(kind, text_of(name, size)) for size in (16_384, 65_536))
    assert whole <= 8 * quarter + 50_000


@pytest.mark.parametrize("name", [*UNITS, *SHAPES])
def test_nor_do_the_patterns_of_markdown_take_time_to_speak_of(name: str):
    """They run without a call that could be counted."""
    document = parse(text_of(name, 65_536))
    begin = time.process_time()
    with_links_apart(f"[{markdown(document)}")
    assert time.process_time() - begin < 5.0  # 0.1 to 1 s; quadratic was half a minute
