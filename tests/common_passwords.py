"""The common passwords that are long enough to be chosen, from zxcvbn's lists: `python tests/common_passwords.py`, or `make docs`.

zxcvbn itself is not needed at run time: importing it takes 13 MB that are never given back, for words of which nine in ten are too short.
"""

from zxcvbn.frequency_lists import FREQUENCY_LISTS

from tocsin.flow.people.passwords import COMMON, MIN_PASSWORD


def common() -> str:
    """The 30,000 commonest passwords, and the commonest words and names: zxcvbn has each of them in one list only."""
    found = {word.casefold() for words in FREQUENCY_LISTS.values() for word in words if len(word) >= MIN_PASSWORD}
    return "\n".join(sorted(found)) + "\n"


if __name__ == "__main__":
    COMMON.write_text(common(), encoding="utf-8")
