"""Limits of a minute where two processes take requests: what each lets through, and what it says."""

from types import SimpleNamespace
from typing import Any

import pytest

from tocsin.api.auth import _counted
from tocsin.api.errors import Refusal
from tocsin.flow.handlers.consenting import MAX_CLICKS_A_MINUTE, Consenting
from tocsin.flow.windows import Windows
from tocsin.settings import load


def test_a_key_is_refused_with_the_whole_limit_and_what_each_process_allows() -> None:
    caller: Any = SimpleNamespace(key_id=1)
    requests = Windows(100, lambda: 0.0, lambda: 2)
    headers = [dict(_counted(requests, caller)) for _ in range(50)][-1]
    assert (headers[b"ratelimit-limit"], headers[b"ratelimit-remaining"]) == (b"100", b"0")
    with pytest.raises(Refusal) as refused:
        _counted(requests, caller)
    assert refused.value.fault.detail == (
        "This API key may make 100 requests a minute. Several processes share this limit, and each allows 50 of them."
    )
    alone = Windows(1, lambda: 0.0)
    _counted(alone, caller)
    with pytest.raises(Refusal) as refused:
        _counted(alone, caller)
    assert refused.value.fault.detail == "This API key may make 1 request a minute."


@pytest.mark.parametrize("api_processes", [1, 2, 3])
def test_clicks_on_a_link_are_those_of_all_processes_together(api_processes: int) -> None:
    links = SimpleNamespace(subscription=lambda _: "a handler's")
    rooms: Any = SimpleNamespace(links=links)
    settings = load({})
    consenting = Consenting(*[rooms] * 8, settings, rooms, lambda: api_processes)
    allowed = MAX_CLICKS_A_MINUTE // api_processes
    waits = [consenting.clicked("token", "192.0.2.1") for _ in range(allowed + 1)]
    assert (max(waits[:-1]), waits[-1] > 0) == (0, True)
