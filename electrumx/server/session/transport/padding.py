"""Fills writes up to few different lengths, so that an observer of encrypted traffic learns less.

The length of a reply reveals the called method, and how long a history is.  ``padded`` fills each write
to a client up to the next power of two, from 1 KiB to 64 KiB, above that to a multiple of 64 KiB.  The
padding is spaces before the bracket that ends the last message, where JSON allows white space.

Nothing waits for something else to go with it: a reply is as fast as without padding.  Pure.
"""

SMALLEST_BYTES = 1_024
LARGEST_STEP_BYTES = 65_536
_BRACKETS = (b"}\n", b"]\n")


def padded_size(size: int) -> int:
    """Return the number of bytes to fill a write of ``size`` bytes up to."""
    if size > LARGEST_STEP_BYTES:
        return -(-size // LARGEST_STEP_BYTES) * LARGEST_STEP_BYTES
    return max(SMALLEST_BYTES, 1 << (size - 1).bit_length())


def padded(lines: bytes, count: int | None = None) -> bytes:
    """Return lines of JSON with ``count`` spaces, by default as many as fill them up.

    They are unchanged if the last one does not end in a bracket.
    """
    if not lines.endswith(_BRACKETS):
        return lines
    size = len(lines)
    if count is not None:
        size += count
    elif size <= SMALLEST_BYTES:
        # Most often
        size = SMALLEST_BYTES
    else:
        size = padded_size(size)
    return lines[:-2].ljust(size - 2) + lines[-2:]
