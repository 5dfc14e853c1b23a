"""The page about Markdown's elements, against the channels."""

import pytest

import matrix
from tocsin.channels.registry import CHANNELS
from tocsin.markup.elements import SAMPLES, Element, elements_of
from tocsin.markup.parse import parse


def test_the_page_is_what_the_channels_do():
    assert matrix.PAGE.read_text(encoding="utf-8") == matrix.page(), "run `make docs`, and look at what has changed"


@pytest.mark.parametrize("element", Element)
def test_a_sample_shows_its_element(element: Element):
    assert element in elements_of(parse(SAMPLES[element]))


@pytest.mark.parametrize("element", sorted(set(Element) - {Element.BULLETS, Element.NUMBERS, Element.NESTED_LIST, Element.QUOTE}))
@pytest.mark.parametrize("kind", [kind for kind in CHANNELS if kind not in {"webhook", "x"}])
def test_what_is_native_is_more_than_words(kind: str, element: Element):
    """Lists and quotes are the exception: some dialects have them as plain text has them."""
    if element not in CHANNELS[kind].becomes:
        assert matrix.sent(CHANNELS[kind], SAMPLES[element]) != matrix.sent(CHANNELS["x"], SAMPLES[element])


def test_elements_are_found_where_they_are_nested():
    held = elements_of(parse("> - [x] **a *b ~~c~~***\n>   1. `d` [e](http://nas/) <f@g.h>\n> > ![i](https://j.k/l)\n"))
    wanted = {Element.QUOTE, Element.NESTED_QUOTE, Element.BULLETS, Element.NESTED_LIST, Element.TASK, Element.BOLD, Element.ITALIC}
    assert held == wanted | {Element.STRIKE, Element.CODE, Element.LOCAL_LINK, Element.MAIL_LINK, Element.IMAGE}
