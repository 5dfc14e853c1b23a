"""What this process may use, measured once at the start: descriptors and memory, and how they are shared out.

Descriptors are divided so that strangers' connections never take those needed for deliveries, and neither takes those that the
store and the log need. Nothing here is a setting: everything follows from the operator's limits (LimitNOFILE, the container's memory).
"""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

MAX_DESCRIPTORS = 65_536  # one process has no use for more, and some systems allow a billion
MAX_INCOMING = 4_096  # connections; each takes about 6 KB, so that strangers' silent ones cannot take more than 25 MB
INCOMING_BYTES = 32 << 10  # what a connection may hold, with an anonymous form half sent
_KEPT = 64  # descriptors for the store, the log and the event loop; about 30 are open in an idle service
_NO_LIMIT = 1 << 60  # cgroup v1 writes "none" as a number about as large as this or larger


class Limits(Struct, frozen=True):
    """`kept_descriptors` are for the store and files, the others for connections of clients and for deliveries; together they are
    `descriptors`. `memory_bytes`: the machine's memory, or what the control group or the process limit leaves of it.
    """

    descriptors: int
    kept_descriptors: int
    incoming_descriptors: int
    outgoing_descriptors: int
    memory_bytes: int


def raise_descriptors() -> None:
    """Lift the soft limit, often 1,024, up to the hard one: each connection holds a descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    with contextlib.suppress(ValueError, OSError):  # we may not raise it: then there are fewer connections at once
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def measure(root: Path = Path("/")) -> Limits:
    """Read the limits as they are now. `root` is where /proc and /sys are."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    return share_out(descriptors, min(_memory_limits(root)))


def share_out(descriptors: int, memory_bytes: int) -> Limits:
    """A quarter, at most 64, is reserved. Clients get a third of the rest, within an eighth of the memory; deliveries get
    the remainder.
    """
    kept = min(_KEPT, descriptors // 4)
    incoming = min((descriptors - kept) // 3, MAX_INCOMING, memory_bytes // 8 // INCOMING_BYTES)
    incoming = max(incoming, 1)
    return Limits(descriptors, kept, incoming, max(descriptors - kept - incoming, 1), memory_bytes)


def _memory_limits(root: Path) -> Iterator[int]:
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft
    for file in _cgroup_files(root):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            limit = int(file.read_text())
            if 0 < limit < _NO_LIMIT:
                yield limit


def _cgroup_files(root: Path) -> Iterator[Path]:
    """The memory limits of our control group and of those above it. https://docs.kernel.org/admin-guide/cgroup-v2.html"""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # Inside a container the path may be the host's and not exist: the top then has the container's own limit.
        group = top / path.lstrip("/")
        yield group / name
        yield from (parent / name for parent in group.parents if parent.is_relative_to(top))


# --------------------------------------------------------------------------------------------------------- while it runs


def open_descriptors() -> int:
    """How many are open now; 0 if the system does not tell."""
    with contextlib.suppress(OSError):
        folder = Path("/proc/self/fd")
        # Linux 6.2 and later give the count as the folder's size, at no cost; before that it was 0.
        return folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208 - names only, and there may be thousands
    return 0


def complaints(limits: Limits) -> list[str]:
    """A sentence if descriptors are nearly used up: fewer are left than a quarter of those in reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # may have been changed from outside meanwhile
    left = (MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft) - open_descriptors()
    return [] if left > limits.kept_descriptors // 4 else ["Nearly all file descriptors are in use: raise LimitNOFILE."]
