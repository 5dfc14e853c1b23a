"""Which of the partitions a handler belongs to: a share of the handlers that one process sends for, where several share a store.

Everything that a pace counts together must be in one partition. So the key of a pace is a *root*, or a root, a colon and more; whatever
has the same root is in the same partition. A root is two words with a colon between them, or one word.
"""

import functools
import hashlib

PARTITIONS = 1024


@functools.lru_cache(maxsize=16_384)
def partition_of(root: str) -> int:
    """The partition of everything that has this root."""
    return int.from_bytes(hashlib.blake2b(root.encode(), digest_size=8).digest()) % PARTITIONS


def root_of(key: str) -> str:
    """The root of a pace's key or of a credential."""
    return ":".join(key.split(":", 2)[:2])


def own_root(handler_id: int) -> str:
    """The root of a handler that shares no pace with others."""
    return f"handler:{handler_id}"
