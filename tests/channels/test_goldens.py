"""What every channel makes of notifications as they are sent in practice, against what somebody has looked at and found right."""

import pytest

from corpus import CORPUS
from goldens import FOLDER, golden, path_of


@pytest.mark.parametrize("name", CORPUS)
def test_a_notification_looks_as_it_did(name: str):
    assert golden(name) == path_of(name).read_bytes().decode(), "run `make docs`, and look at what has changed"


def test_no_golden_is_left_over():
    assert {path.stem for path in FOLDER.iterdir()} == set(CORPUS)
