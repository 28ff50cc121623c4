"""Unflushed history in memory; see ``_fasthistory.pyx``."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from electrumx.server.block_processor._arrays cimport Array
from electrumx.server.storage._layout cimport HASHX_LEN, TOUCH_RECORD_LEN, TXNUM_LEN


cdef class FastHistory:
    cdef Array records
    # the count of records when new ones were last returned
    cdef size_t touched_from
    # the records that the flush in progress writes, and how many of them it has written
    cdef readonly bint frozen
    cdef Array frozen_records
    cdef size_t written


cdef void sort_records(Array *records) noexcept nogil


cdef inline void add_record(Array *records, const uint8_t *hashX, uint64_t tx_num) noexcept nogil:
    """Add a transaction to a script's history; the caller has allocated room."""
    cdef uint8_t *at = records.data + TOUCH_RECORD_LEN * records.count
    cdef int n
    memcpy(at, hashX, HASHX_LEN)
    for n in range(TXNUM_LEN):
        at[HASHX_LEN + n] = <uint8_t> (tx_num >> (8 * (TXNUM_LEN - 1 - n)))
    records.count += 1
