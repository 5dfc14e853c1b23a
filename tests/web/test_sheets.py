"""What a spreadsheet reads from an export: texts, and never a formula, whichever separator it goes by."""

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.web.sheets import harmless, rows_of

STARTS = "=+-@"
ATTACKS = (
    *("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", "\n=1+1", "\tplain", "\rplain", "|calc"),
    *(" =1+1", "\u00a0=1+1", "\u200b=1+1", "\ufeff=1+1", "\u2060+1", "\u00ad@x", "\x01=1", "'=1", '"=1'),
    *("＝1+1", "＋1", "－1", "＠x", " ＝1"),
    *("x;=1+1", "x; =1+1", "x|=1+1", 'x";=1+1', "x\n=1+1", "x\t=1+1", "a;b;@x", "x;\u200b＝1", '","=1', "x;'=1"),
    "=cmd|' /C calc'!A0",
)


def cells(text: str, separator: str) -> list[str]:
    """As a program that goes by this separator reads it."""
    return [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) for cell in row]


def begins_formula(cell: str) -> bool:
    seen = "".join(one for one in cell if not one.isspace() and unicodedata.category(one) not in {"Cf", "Cc"}).lstrip('"')
    return unicodedata.normalize("NFKC", seen)[:1] in {*STARTS, "|"}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_no_cell_begins_a_formula(attack: str, separator: str) -> None:
    text = rows_of([(1, attack, "Disk is full"), (2, "Disk is full", attack)])
    assert [cell for cell in cells(text, separator) if begins_formula(cell)] == []
    assert [cell for line in text.splitlines() for cell in line.split(separator) if begins_formula(cell.strip('"'))] == []


@given(st.text(st.sampled_from("=+-@|;,\t\r\n\"' \u200bxＡ＝1")), st.sampled_from(",;\t|"))
def test_nor_does_any_other_text(text: str, separator: str) -> None:
    assert not any(begins_formula(cell) for cell in cells(rows_of([(text, text)]), separator))


@pytest.mark.parametrize(
    "text", ["", "Disk is full", "a-b", "1 + 1 = 2", "me@example.com", "x; y", "알림 - 서버", "C++", "100 % of it", "it's"]
)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert harmless(text) == text
    assert rows_of([(text, 5, None, -5)]) == f'"{text}","5","","-5"\r\n'
