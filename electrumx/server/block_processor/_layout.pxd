"""Widths and offsets, in bytes, of the items that the Cython implementation has in memory only.

Those of rows are in ``storage/_layout.pxd``.  Plain numbers, so that they can be lengths of C
arrays; ``tests/server/block_processor/test_layout.py`` compares each with the sum that it is.
"""

cdef enum:
    # an output of a parsed block: hashX, value LE8, flags
    OUTPUT_LEN = 20
    # offset of the flags in it
    OUTPUT_FLAGS = 19
    # offset of the value in a UTXO: hashX, tx_num LE5, value LE8
    UTXO_VALUE = 16
    # the parts that identify an ``h`` row: tx_hash[:4], txout_idx LE4, tx_num LE5
    ROW_ID_LEN = 13
    # a UTXO to delete: row id, hashX
    DELETE_LEN = 24
    # a UTXO to write: row id, hashX, value LE8
    FROZEN_LEN = 32
