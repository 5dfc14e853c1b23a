"""How this process is set up for serving (descriptors, threads, memory), and told to end."""

import ctypes
import gc
import os
import signal
import sys

import structlog

from tocsin import limits

SWITCH_SECONDS = 0.0005  # with Python's 5 ms a commit would wait that long, several times over, for a busy event loop
KEPT_BYTES = 4 << 20  # of freed memory
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
log = structlog.get_logger(__name__)


def tune() -> None:
    limits.raise_descriptors()
    sys.setswitchinterval(SWITCH_SECONDS)
    _keep_freed_memory()


def end(why: str) -> None:
    """Nothing may be sent any more that another service may send, or that others would not understand."""
    log.error("store.taken", why=why)
    os.kill(os.getpid(), signal.SIGTERM)


def keep_what_is_here() -> None:
    """Nothing that was made until now is looked through by the garbage collector again."""
    gc.collect()
    gc.freeze()


def _keep_freed_memory() -> None:
    """Bodies of some 100 KB come and go; glibc would return their memory each time, and the kernel clear it again: 5 % of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # https://man7.org/linux/man-pages/man3/mallopt.3.html, not in every libc
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TOP_PAD, 0)  # fresh memory from the kernel is known to be zero: half of libcurl's buffers then use no pages
