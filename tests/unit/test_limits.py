"""What the process may use, read from a file system that the test writes."""

from pathlib import Path

import pytest

from tocsin.limits import MAX_INCOMING, measure, share_out

GIB = 1 << 30


@pytest.mark.parametrize("descriptors", [16, 256, 1024, 65_536])
@pytest.mark.parametrize("memory", [64 << 20, 256 << 20, 16 * GIB])
def test_descriptors_are_shared_out_whole(descriptors: int, memory: int) -> None:
    found = share_out(descriptors, memory)
    assert found.kept_descriptors + found.incoming_descriptors + found.outgoing_descriptors == found.descriptors == descriptors
    assert min(found.kept_descriptors, found.incoming_descriptors) > 0
    assert found.outgoing_descriptors >= 2 * found.incoming_descriptors
    assert found.incoming_descriptors * (32 << 10) <= max(memory // 8, 32 << 10)


def test_what_usual_machines_get() -> None:
    assert share_out(1024, 16 * GIB).incoming_descriptors == 320
    assert share_out(65_536, 16 * GIB).incoming_descriptors == MAX_INCOMING
    assert share_out(65_536, 256 << 20).incoming_descriptors == 1024


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "1000000\n"}, 1_000_000),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "1000000\n", "sys/fs/cgroup/memory.max": "900000\n"}, 900_000),
        ({"proc/self/cgroup": "0::/not/here\n", "sys/fs/cgroup/memory.max": "800000\n"}, 800_000),  # the path of the host
        ({"proc/self/cgroup": "7:cpu:/\n4:memory:/x\n0::/\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "700000\n"}, 700_000),
        ({"proc/self/cgroup": "4:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_memory_is_the_least_of_what_is_allowed(tmp_path: Path, files: dict[str, str], wanted: int | None) -> None:
    write(tmp_path, files)
    physical = measure(tmp_path / "nothing").memory_bytes
    assert measure(tmp_path).memory_bytes == (wanted or physical)
