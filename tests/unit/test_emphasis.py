"""Emphasis beside Korean, Chinese and Japanese, where no space parts a word from what follows it."""

import itertools
import re

import pytest

from tocsin.markup.emphasis import MARK, marked
from tocsin.markup.html import html
from tocsin.markup.parse import parse
from tocsin.markup.plain import plain


def shown(text: str) -> str:
    """The text as HTML without the styles, its marks as the tags' names."""
    return re.sub(r"</?p( [^>]*)?>", "", html(parse(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**마크다운(Markdown)**을 쓰세요", "<strong>마크다운(Markdown)</strong>을 쓰세요"),
        ("**\"인용\"**이라고 *'강조'*는", "<strong>&quot;인용&quot;</strong>이라고 <em>&#x27;강조&#x27;</em>는"),
        ("디스크가 **91%**를 넘었고 **$100**입니다", "디스크가 <strong>91%</strong>를 넘었고 <strong>$100</strong>입니다"),
        ("가격은**$100**입니다", "가격은<strong>$100</strong>입니다"),
        ("프로그램**“foo”**을", "프로그램<strong>“foo”</strong>을"),
        ("*「テスト」*は **「重要」**です", "<em>「テスト」</em>は <strong>「重要」</strong>です"),
        ("これは**「重要」**です。**注意！**次", "これは<strong>「重要」</strong>です。<strong>注意！</strong>次"),
        ("**中文（括号）**的", "<strong>中文（括号）</strong>的"),
        ("~~취소(됨)~~됨 ~~(x)~~은", "<s>취소(됨)</s>됨 <s>(x)</s>은"),
        ("**`코드`**를 **[링크](https://x.y/)**를", None),
        ("**완료🎉**입니다 **끝.**다음", "<strong>완료🎉</strong>입니다 <strong>끝.</strong>다음"),
        ("***(둘)***은", "<em><strong>(둘)</strong></em>은"),
        ("(**가**)나 「**나**」다", "(<strong>가</strong>)나 「<strong>나</strong>」다"),
        ("**가**(**나**)다", "<strong>가</strong>(<strong>나</strong>)다"),
        ("**_서버(a)_**는", "<strong><em>서버(a)</em></strong>는"),
        ("는**_(서버)_**", "는<strong><em>(서버)</em></strong>"),
        ("는~~**_“서버”_**~~는", "는<s><strong><em>“서버”</em></strong></s>는"),
        ("**앞 ~~서버(a)~~**는", "<strong>앞 <s>서버(a)</s></strong>는"),
        ("「**_서버_**」와 。**_(서버)_**。", "「<strong><em>서버</em></strong>」와 。<strong><em>(서버)</em></strong>。"),
        (r"는**\_(서버)\_**는", "는<strong>_(서버)_</strong>는"),
    ],
)
def test_it_closes_where_a_writer_means_it(text: str, expected: str | None):
    found = shown(text)
    assert found == expected if expected is not None else "**" not in found


@pytest.mark.parametrize(
    "text", ["2 * 3 * 4는", "가 ** 나 ** 다", r"\*가)\*을", "_가)_을", "**가", "가)**을", "`**가)**을`", "**(a)**b", "`~~가)~~을`"]
)
def test_what_is_none_stays_none(text: str):
    found = shown(text)
    assert "<strong>" not in found
    assert "<em>" not in found
    assert "<s>" not in found


FORMS = ("{}", "- {}", "# {}", "> {}", "|a|\n|-|\n|{}|")
NAMES = {"**": "strong", "*": "em", "_": "em", "~~": "s"}
NESTED = [
    runs
    for count in (2, 3)
    for runs in itertools.permutations(NAMES, count)
    if runs[0] != "_" and not any(both <= set(runs) for both in ({"*", "_"}, {"*", "**"}))  # an underscore is no mark within a word
]


@pytest.mark.parametrize("runs", NESTED)
def test_runs_in_a_row_are_all_marks(runs: tuple[str, ...]):
    """The inner ones close between punctuation, the outer one between punctuation and a letter."""
    opened, closed = "".join(runs), "".join(reversed(runs))
    tags = "".join(f"<{NAMES[run]}>" for run in runs)
    ends = "".join(f"</{NAMES[run]}>" for run in reversed(runs))
    for inside in ("서버(a)", "(서버)", "서버", "a", "100%"):
        for form in FORMS:
            assert f"는{tags}{inside}{ends}는" in html(parse(form.format(f"는{opened}{inside}{closed}는")))
            assert f"{tags}{inside}{ends}는" in html(parse(form.format(f"{opened}{inside}{closed}는")))


def test_a_single_tilde_is_a_range():
    assert shown("1시~**2시**, **9시**~오후") == "1시~<strong>2시</strong>, <strong>9시</strong>~오후"
    assert shown("1시~**(2)**는") == "1시~<strong>(2)</strong>는"


def test_nothing_is_marked_without_a_letter_of_theirs_beside_the_run():
    for text in ("**a**b", "한글 **a** b", "a (**b**) c 한글", "**a)**b"):
        assert marked(text) is text


def test_the_marks_are_seen_nowhere():
    text = "**가)**을 `**가)**을` <b title='**가)**을'> [**가)**을](https://x.y/가)**을 'x') \n\n```\n**가)**을\n```\n\n    **가)**을\n"
    for one in (text, text.replace("가)**", "_가)_**"), text.replace("**가", "는**_가")):
        assert MARK in marked(one)
        assert MARK not in str(parse(one))
        assert "·" not in str(parse(one))
        assert plain(parse("·**_(가)_**는·_**나")) == "·(가)는·_**나"


def test_a_long_text_of_runs_takes_one_pass():
    text = "가)**을" * 10_000 + "\\" * 10_001 + "*가"
    assert len(marked(text)) == len(text) + 10_000
