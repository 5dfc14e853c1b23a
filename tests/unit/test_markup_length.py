"""Lengths in three units, and cuts that show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.markup import discord, telegram
from tocsin.markup.cut import fit, head_of, weight
from tocsin.markup.length import clean, clean_line, cut_bytes, cut_characters, cut_utf16, missing, share, utf8, utf16
from tocsin.markup.parse import parse
from tocsin.markup.plain import plain
from wild import markdown

CLUSTERS = ["👍🏽", "👩‍👩‍👧", "🇰🇷", "e\u0301", "\u1112\u1161\u11ab", "❤️", "कि", "🚨"]


def test_units():
    assert [utf16(text) for text in ("", "a", "한", "🚨", "👍🏽")] == [0, 1, 1, 2, 4]
    assert [utf8(text) for text in ("", "a", "한", "🚨")] == [0, 1, 3, 4]


def test_clean():
    assert clean("a\x00b\x07c\x7fd\x9fe\ufefff\ufffeg\uffffh\ud800i\tj\nk") == "abcdefghi\tj\nk"
    assert clean("a\r\nb\rc") == "a\nb\nc"
    assert clean_line(" a\r\nb\t c\x07 ") == "a b c"


@pytest.mark.parametrize(("cut", "size"), [(cut_characters, len), (cut_utf16, utf16), (cut_bytes, utf8)])
def test_what_fits_stays(cut, size):
    text = "한국어 👍🏽 text"
    assert cut(text, size(text)) == text
    assert cut(text, size(text) - 1) != text


def test_a_long_cut_says_how_much_is_missing():
    text = "word " * 5000
    shown = cut_characters(text, 1000)
    head, _, note = shown.partition("…")
    assert len(shown) <= 1000
    assert note == f" {len(text) - len(head.rstrip()) - 1:,} more characters"
    assert len(shown) > 950


def test_a_short_cut_ends_in_an_ellipsis():
    assert cut_characters("a long title of a message", 10) == "a long t…"
    assert cut_characters("abc", 1) == "…"
    assert cut_characters("abc", 0) == ""
    assert cut_bytes("abc", 2) == "."
    assert missing(1) == "… 1 more character"


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize(("cut", "size"), [(cut_characters, len), (cut_utf16, utf16), (cut_bytes, utf8)])
def test_no_cut_falls_into_what_belongs_together(cluster, cut, size):
    text = cluster * 40
    for limit in range(5, 60):
        kept = cut(text, limit).rstrip("….")
        assert kept == cluster * (len(kept) // len(cluster))
        assert size(cut(text, limit)) <= limit


def test_endless_combining_marks_are_cut_all_the_same():
    assert 90 < len(cut_characters("a" + "\u0301" * 5000, 100)) <= 100


@given(st.text(max_size=400) | markdown, st.integers(0, 500))
def test_cuts_keep_their_limit(text, limit):
    for cut, size in ((cut_characters, len), (cut_utf16, utf16), (cut_bytes, utf8)):
        shown = cut(text, limit)
        assert size(shown) <= limit
        assert shown == text or size(text) > limit


@given(st.lists(st.integers(0, 500), max_size=30), st.integers(0, 5000))
def test_share(sizes, room):
    cap = share(sizes, room)
    assert sum(min(size, cap) for size in sizes) <= room
    if sum(sizes) <= room:
        assert all(size <= cap for size in sizes)
    else:
        assert sum(min(size, cap + 1) for size in sizes) > room


def test_a_document_that_fits_is_whole():
    text = "# A\n\n- b\n- **c**"
    assert fit(parse(text), 100, plain, len) == plain(parse(text))


def test_a_document_that_does_not_fit_says_how_much_is_missing():
    shown = fit(parse("word " * 2000), 500, plain, len)
    assert 400 < len(shown) <= 500
    words, note = shown.split("\n\n")
    assert note.startswith("… ")
    assert note.endswith(" more characters")
    assert abs(int(note.split()[1].replace(",", "")) + len(words) - 10_000) < 10


def test_half_a_link_or_half_a_row_is_none():
    assert plain(head_of(parse("aaaa [a long label](http://x.y)"), 12)) == "aaaa "
    assert plain(head_of(parse("|a|b|\n|-|-|\n|c|d|\n|eeeeee|ffffff|"), 16)).endswith("c | d")


@given(markdown, st.integers(60, 5000), st.sampled_from([(plain, len), (discord.discord, utf16), (telegram.telegram, utf8)]))
def test_fit_keeps_its_limit(text, limit, dialect):
    render, size = dialect
    document = parse(text)
    shown = fit(document, limit, render, size)
    assert size(shown) <= limit
    if size(render(document)) <= limit and weight(document) <= limit:
        assert shown == render(document)


@given(markdown, st.integers(0, 2000))
def test_heads_keep_to_their_room(text, room):
    document = parse(text)
    head = head_of(document, room)
    assert weight(head) <= room
    assert head == document or weight(document) > room
