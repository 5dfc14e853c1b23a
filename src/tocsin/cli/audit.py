"""`tocsin audit`: the audit log, read from the store itself."""

import sys
from collections.abc import Callable, Iterator
from typing import cast

import msgspec

from tocsin.cli import show
from tocsin.cli.admin import DataDir, shown_time, store_of
from tocsin.cli.moments import read_moment
from tocsin.cli.numbers import CountOrAll
from tocsin.cli.options import load_settings
from tocsin.ports.audit import AuditFilter, Entry

AT_ONCE = 1000


def list_entries(
    *,
    act: str = "",
    user: str = "",
    address: str = "",
    via: str = "",
    since: str | None = None,
    until: str | None = None,
    limit: CountOrAll = 100,
    json: bool = False,
    data_dir: DataDir = None,
) -> None:
    """List who did what, to what, from where and when: the newest first.

    Parameters
    ----------
    act
        What was done, such as key.added, or a beginning such as key for all of them.
    user
        Part of an e-mail address: of the user who did it, or whose it was.
    address
        IP address that it was done from.
    via
        What it was done through: page, api, command or service.
    since
        First day or time, in UTC.
    until
        Last day or time, in UTC.
    limit
        Number of entries; 0 means all.
    json
        Print JSON lines instead of a table.
    """
    from tocsin.flow.history.audit import line_of

    start = None if since is None else read_moment(since, "--since")
    end = None if until is None else read_moment(until, "--until", is_end=True)
    which = AuditFilter(act=act, via=via, user=user, address=address, start=start, end=end)
    with store_of(load_settings(data_dir=data_dir)) as store:
        found = _found(store.audit, which, limit)
        if json:
            for one in found:
                show.write_json(line_of(one))
            return
        rows = [(shown_time(one.at) or "", one.who or "-", one.via, one.address or "-", one.act, _what(one)) for one in found]
    show.table(("TIME (UTC)", "WHO", "VIA", "ADDRESS", "ACT", "WHAT"), rows)


def _found(page: Callable[[AuditFilter, int], list[Entry]], which: AuditFilter, limit: int) -> Iterator[Entry]:
    """In pages, so that a long log is never in memory as a whole."""
    left = limit or sys.maxsize
    while left > 0:
        found = page(which, min(left, AT_ONCE))
        yield from found
        if len(found) < AT_ONCE:
            return
        left -= len(found)
        which = msgspec.structs.replace(which, before=found[-1].id)


def _what(entry: Entry) -> str:
    """Whose it was, which one, and more of it, in a line."""
    whose = entry.whose if entry.whose != entry.who else ""
    which = f"{entry.ref} {entry.name}".strip() if entry.ref is not None else entry.name
    detail = "; ".join(f"{name}: {_shown(value)}" for name, value in entry.detail.items())
    return ", ".join(filter(None, (whose, which, detail)))


def _shown(value: object) -> str:
    return ", ".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)
