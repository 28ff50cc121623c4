"""A parsed block in memory; see ``_fastblock.pyx``."""

from libc.stdint cimport uint32_t

from electrumx.server.block_processor._arrays cimport Array


cdef enum:
    # flags of an output: whether it can be spent before the genesis upgrade, and after it
    SPENDABLE_LEGACY = 1
    SPENDABLE_GENESIS = 2


cdef struct TxShape:
    uint32_t spends
    uint32_t outputs


cdef class FastBlock:
    # bytes, or a map of a file
    cdef readonly object raw
    cdef readonly bytes header
    cdef readonly uint32_t tx_count
    cdef Array hashes
    cdef Array shapes
    cdef Array spends
    cdef Array outputs
