"""How the C library keeps freed memory.

Owns whether it was tuned, which is so for the whole process; called at the start, at the end of
catching up, when serving begins, and when recent blocks have been read after it.

*While serving.*  glibc gives freed blocks of more than 128 KiB, and the free end of its heap, back
to the kernel at once, and the next large reply gets them again, page by page, each page a fault and
4 KiB of zeros.  Two thousand headers in hex take five such blocks.  Keeping up to 64 MiB made them
three times as cheap (690 to 220 µs of processor time a request), and a history of 45,000
transactions more than twice (10.7 to 4.3 ms).

*While catching up* it is the other way round: the data indexed and flushed lies in arrays that grow
to many megabytes and are freed while the next ones grow.  Kept, they leave holes: 4 million
transactions with CACHE_MB=200 took 480 MB with LevelDB and 460 with RocksDB, and take 380 and 370
if they go back to the kernel.  Most blocks of the chain, and batches of them, are smaller: freed,
they are holes between what stays, which go back when the chain is caught up with, and once more
after the flush that follows.  After 400,000 transactions that is 29 of 158 MB, in 1.3 ms, and
then 18 of 110.
"""

import ctypes
from collections.abc import Mapping
from contextlib import suppress
from threading import Event

# Of mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

#: freed bytes to keep at the end of the heap while serving, and while catching up
KEPT_BYTES = 64 << 20
KEPT_BYTES_SYNC = 8 << 20
#: blocks of fewer bytes come from the heap, where a freed one may stay as a hole: larger ones than
#: replies are, such as the tables of dictionaries that grow, should not
HEAP_BLOCK_BYTES = 8 << 20
HEAP_BLOCK_BYTES_SYNC = 4 << 20

#: with one of these the operator has decided already
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

# Set after tuning the library
_is_tuned = Event()


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Let the C library keep freed memory, as is good for serving; say if it does.

    False where the operator has set it in the environment, or where it is not glibc.
    """
    return _set(environ, HEAP_BLOCK_BYTES, KEPT_BYTES)


def keep_little_freed_memory(environ: Mapping[str, str]) -> bool:
    """Tune glibc's malloc for catching up; otherwise as :func:`keep_freed_memory`."""
    return _set(environ, HEAP_BLOCK_BYTES_SYNC, KEPT_BYTES_SYNC)


def give_back_freed_memory() -> None:
    """Give all freed memory back to the kernel, holes as well.

    Does nothing unless the library was tuned.  Other threads wait for memory in the meantime, the
    event loop too: a millisecond for tens of megabytes, a tenth of a second for a gigabyte.
    """
    if _is_tuned.is_set():
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _set(environ: Mapping[str, str], heap_block: int, kept: int) -> bool:
    if any(name in environ for name in _VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    if not (mallopt(_M_MMAP_THRESHOLD, heap_block) and mallopt(_M_TRIM_THRESHOLD, kept)):
        return False
    _is_tuned.set()
    return True
