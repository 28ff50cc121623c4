"""History in memory as the loop that indexes sees it; see ``_fasthistory.pyx``."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from electrumx.server.block_processor._arrays cimport Array
from electrumx.server.block_processor._fastblock cimport HASHX_LEN


cdef enum:
    RECORD_LEN = 16


cdef class FastHistory:
    cdef Array records
    # those that were there when they were last asked for
    cdef size_t touched_from
    # what the flush that is under way has taken, and how many of those it has written
    cdef readonly bint taken
    cdef Array taken_records
    cdef size_t written


cdef void sort_records(Array *records) noexcept nogil


cdef inline void add_record(Array *records, const uint8_t *hashX, uint64_t tx_num) noexcept nogil:
    """Note a transaction in a script's history; room was made."""
    cdef uint8_t *at = records.data + RECORD_LEN * records.count
    cdef int n
    memcpy(at, hashX, HASHX_LEN)
    for n in range(5):
        at[HASHX_LEN + n] = <uint8_t> (tx_num >> (8 * (4 - n)))
    records.count += 1
