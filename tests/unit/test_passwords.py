"""Which passwords are taken."""

import pytest

import common_passwords
from tocsin.flow.people.passwords import COMMON, MAX_PASSWORD, MIN_PASSWORD, fault_of

EMAIL = "Someone.Long@example.com"


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("", "A password takes 10 to 1,024 characters, and this one has 0."),
        ("short one", "A password takes 10 to 1,024 characters, and this one has 9."),
        ("한국어비밀번호아홉", "and this one has 9."),
        ("a long one " * 94, "and this one has 1,034."),
        ("someone.long@example.com", "address"),
        (" SOMEONE.LONG@EXAMPLE.COM ", "address"),
        ("someone.long", "address"),
        *((common, "common") for common in ("1234567890", "qwertyuiop", "Password123", "basketball", " iloveyou123 ", "ENTERPRISE")),
        *(
            (repeated, "common")
            for repeated in ("aaaaaaaaaa", "1111111111", "abcabcabcabc", "12121212121", "한한한한한한한한한한", " " * 12)
        ),
    ],
)
def test_a_password_that_others_would_guess_is_refused(password: str, said: str) -> None:
    fault = fault_of(password, EMAIL)
    assert fault is not None and said in fault.detail
    assert len(password) < 3 or password.strip() not in fault.detail or not password.strip()


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "x7!" * 3 + "Q",
        "a" * 9 + "bcdefgh",
        "한국어로 쓴 비밀번호",
        "someone.long@example.org",
        "pass word 123",
        "é1" * 2 + "zyxwvu" + "ß" * 1014,
    ],
)
def test_others_are_taken_whatever_they_are_made_of(password: str) -> None:
    assert MIN_PASSWORD <= len(password) <= MAX_PASSWORD
    assert fault_of(password, EMAIL) is None


def test_the_list_is_what_its_source_has() -> None:
    """`make docs` writes it."""
    assert COMMON.read_text(encoding="utf-8") == common_passwords.common()
