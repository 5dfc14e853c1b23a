"""Splitting a document into parts: nothing is lost, limits hold, what was open is closed and opened again."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tocsin.markup import discord, slack, telegram, tree
from tocsin.markup.cut import split, split_at, weight
from tocsin.markup.length import utf8, utf16
from tocsin.markup.parse import parse
from tocsin.markup.plain import plain
from wild import markdown


def parts_of(text: str, limit: int, most: int = 1000, last: int | None = None) -> list[str]:
    return [plain(part) for part in split(parse(text), lambda part: len(plain(part)), limit, last or limit, most)]


def read(blocks) -> str:
    """All words of a document, without white space."""
    words: list[str] = []

    def walk(node) -> None:
        match node:
            case str():
                words.append(node)
            case tree.Text() | tree.Code() | tree.CodeBlock():
                words.append(node.text)
            case tree.Listing():
                walk(node.items)
            case tree.Table():
                walk(node.rows)
            case tuple() | list():
                for inner in node:
                    walk(inner)
            case tree.Break() | tree.Rule():
                pass
            case _:
                walk(node.inside)

    walk(blocks)
    return re.sub(r"\s", "", "".join(words))


def test_what_fits_is_one_part():
    assert parts_of("# A\n\n- b\n- **c**", 100) == [plain(parse("# A\n\n- b\n- **c**"))]


def test_paragraphs_stay_whole_where_that_wastes_little():
    text = "\n\n".join(f"{word * 30}." for word in "abcdef")
    assert parts_of(text, 70) == [f"{one * 30}.\n\n{two * 30}." for one, two in ("ab", "cd", "ef")]


def test_a_long_paragraph_is_cut_after_a_sentence_else_after_a_word():
    assert parts_of("One two three four. Five six seven eight nine ten. Eleven.", 35) == [
        "One two three four.",
        "Five six seven eight nine ten.",
        "Eleven.",
    ]
    assert parts_of("one two three four five six seven eight", 20) == ["one two three four", "five six seven", "eight"]
    assert parts_of("가나다라 마바사아. 자차카타파하 가나다라.", 18)[0] == "가나다라 마바사아."


def test_a_word_is_cut_only_where_there_is_no_other_way_and_never_within_a_character():
    parts = parts_of("👩‍👩‍👧" * 40, 23)
    assert "".join(parts) == "👩‍👩‍👧" * 40
    assert all(part.startswith("👩") and part.endswith("👧") for part in parts)


def test_marks_are_closed_and_opened_again():
    document = parse("**" + "word " * 30 + "end**")
    shown = [telegram.telegram(part) for part in split(document, lambda part: len(plain(part)), 60, 60, 9)]
    assert len(shown) == 3
    assert all(part.startswith("<b>word") and part.endswith("</b>") for part in shown)


def test_code_is_cut_at_a_line_and_stays_code():
    document = parse("```py\n" + "x = 1\n" * 40 + "```")
    shown = [discord.discord(part) for part in split(document, lambda part: utf16(discord.discord(part)), 100, 100, 9)]
    assert len(shown) == 3
    assert all(part.startswith("```py\nx = 1\n") and part.endswith("x = 1\n```") for part in shown)


def test_a_list_goes_on_with_its_number():
    text = "\n".join(f"{number}. item {'x' * 20}" for number in range(1, 10))
    parts = parts_of(text, 100)
    assert [part.split(" ")[0] for part in parts] == ["1.", "4.", "7."]


def test_an_item_that_is_cut_keeps_its_number():
    first, second, third = parts_of("1. first\n2. " + "word " * 20 + "\n3. third", 60)
    assert first.startswith("1. first\n2. word")
    assert second.startswith("2. word")
    assert third.endswith("3. third")


def test_a_table_repeats_its_head():
    text = "|name|value|\n|-|-|\n" + "".join(f"|n{number}|v{number}|\n" for number in range(20))
    parts = parts_of(text, 120)
    assert len(parts) > 2
    assert all(part.startswith("name") for part in parts)
    assert [f"n{number} " in "".join(parts) for number in range(20)] == [True] * 20


def test_a_row_that_is_longer_than_a_part_becomes_words():
    parts = parts_of("|a|b|\n|-|-|\n|" + "word " * 60 + "|x|\n|c|d|", 100)
    assert "".join(parts).count("word") == 60
    assert "c | d" in parts[-1].replace("  ", "")


def test_a_heading_stays_with_what_it_is_about():
    parts = parts_of("a" * 50 + "\n\n# Head\n\n" + "b" * 60, 80)
    assert parts == ["a" * 50, "Head\n\n" + "b" * 60]


def test_headings_of_lower_rank_go_with_the_one_above_them():
    text = "word " * 10 + "\n\n# A\n\n## B\n\n### C\n\n" + "more " * 10
    assert parts_of(text, 70) == [("word " * 10).strip(), "A\n\nB\n\nC\n\n" + ("more " * 10).strip()]


@pytest.mark.parametrize("quote", ["", "> "])
def test_a_run_of_headings_is_split_like_paragraphs(quote: str):
    """As of a script whose comments are read as Markdown."""
    lines = [f"comment {number} of a script" for number in range(100)]
    headings = len(parts_of("\n".join(f"{quote}# {line}" for line in lines), 300))
    paragraphs = len(parts_of(f"\n{quote}\n".join(quote + line for line in lines), 300))
    assert headings <= paragraphs + 1


def test_a_link_stays_whole():
    assert parts_of("some words [a long label](https://example.com/path) end", 30)[0] == "some words"


def test_what_goes_beyond_the_most_is_counted():
    parts = parts_of("word " * 2000, 500, most=3)
    assert len(parts) == 3
    assert re.search(r"… [\d,]+ more characters$", parts[-1])
    assert not any("more characters" in part for part in parts[:-1])


def test_the_last_part_may_have_less_room():
    parts = parts_of("word " * 50, 200, last=60)
    assert [len(part) <= limit for part, limit in zip(parts, (200, 200, 60), strict=False)] == [True] * len(parts)
    assert len(parts[-1]) <= 60


MEASURES = {
    "plain": (plain, len),
    "discord": (discord.discord, utf16),
    "telegram": (telegram.telegram, utf8),
    "slack": (slack.rich_text, slack.length),
}


@pytest.mark.parametrize("dialect", MEASURES)
@given(text=markdown, limit=st.integers(2500, 6000), last=st.integers(2500, 6000), most=st.integers(1, 6))
@example(text="**&#7;**&#7;" * 700, limit=2500, last=2500, most=2)  # bold around nothing has no weight, and must not stay
def test_parts_keep_their_limits(dialect, text, limit, last, most):
    render, measure = MEASURES[dialect]
    parts = split(parse(text), lambda part: measure(render(part)), limit, last, most)
    assert 1 <= len(parts) <= most
    assert all(measure(render(part)) <= limit for part in parts[:-1])
    assert measure(render(parts[-1])) <= last


@given(text=markdown.filter(lambda text: "|" not in text), limit=st.integers(60, 2000))
@example(text="> " * 20 + "a" * 300, limit=60)
@example(text="- " * 20 + "word " * 100, limit=60)
def test_parts_joined_are_the_whole(text, limit):
    document = parse(text)
    parts = split(document, lambda part: len(read(part)), limit, limit, 100_000)
    assert "".join(map(read, parts)) == read(document)
    assert all(parts) or not document


@given(text=markdown, room=st.integers(1, 3000))
def test_a_beginning_is_never_empty(text, room):
    document = parse(text)
    head, rest = split_at(document, room)
    assert bool(head) == bool(document)
    assert rest != document or not document


def test_a_light_text_is_measured_once_however_much_too_large_it_is():
    """It stays whole in every room that is more than its own weight: there is nothing new to measure."""
    measured: list[int] = []

    def size(document: tree.Document) -> int:
        measured.append(weight(document))
        return 120 * measured[-1]

    split(parse("word " * 20), size, 10_000, 10_000, 5)
    assert measured.count(max(measured)) <= 2
    assert len(measured) < 10
