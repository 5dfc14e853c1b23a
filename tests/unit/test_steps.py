"""Every channel has all that a channel needs, and a forgotten step is named."""

import pytest

from steps import STEPS, missing
from tocsin.channels.registry import CHANNELS


@pytest.mark.parametrize("kind", CHANNELS)
def test_every_step_of_adding_a_channel_is_done(kind: str) -> None:
    assert missing(kind, CHANNELS[kind].title) == []


def test_a_channel_that_was_only_begun_lacks_every_step() -> None:
    assert len(missing("pigeon", "Carrier pigeon")) == len(STEPS)
