"""The body of an e-mail is what Python's own EmailMessage writes, byte for byte."""

from email.message import EmailMessage
from email.policy import SMTP

from hypothesis import given
from hypothesis import strategies as st

from tocsin.channels.mime import alternative_body, text_body

BOUNDARY = "=_0123456789abcdef0123456789abcdef"
POLICY = SMTP.clone(cte_type="7bit")
PIECES = [
    "a",
    " ",
    "\t",
    "\n",
    "\n",
    "=",
    "é",
    "한국어",
    "word ",
    "x" * 30,
    "\r",
    "\r\n",
    "\x0b",
    "\x85",
    "\u2028",
    "\x1c",
    "🚨",
    "\n.\n",
    "From ",
]
texts = st.lists(st.sampled_from(PIECES), max_size=80).map("".join) | st.text(st.characters(exclude_categories=("Cs",)), max_size=300)


def of_python(text: str, page: str | None = None) -> bytes:
    mail = EmailMessage(policy=POLICY)
    mail.set_content(text)
    if page is not None:
        mail.add_alternative(page, subtype="html")
        mail.set_boundary(BOUNDARY)
    return mail.as_bytes()


@given(texts)
def test_a_text_alone(text: str):
    assert text_body(text) == of_python(text)


@given(texts, texts)
def test_a_text_with_its_page(text: str, page: str):
    assert alternative_body(text, page, BOUNDARY) == of_python(text, page)


@given(texts, st.integers(8, 12))
def test_many_lines_are_encoded_as_the_first_ten_are(text: str, lines: int):
    long = "\n".join([text.replace("\n", " ")] * lines)
    assert text_body(long) == of_python(long)
