"""Widths, in bytes, of the rows that ``schema.py`` describes, for the Cython modules.

Plain numbers, so that they can be lengths of C arrays; ``tests/server/storage/test_layout.py``
compares each with the name of the same spelling in ``schema.py``.
"""

cdef enum:
    # a block or transaction hash
    HASH_LEN = 32
    # the start of a script's hash
    HASHX_LEN = 11
    TXNUM_LEN = 5
    TXOUT_IDX_LEN = 4
    VALUE_LEN = 8
    HEIGHT_LEN = 4
    TX_HASH_PREFIX_LEN = 4
    # tx_hash, txout_idx LE4
    OUTPOINT_LEN = 36
    # txout_idx LE4, tx_num LE5
    SUFFIX_LEN = 9
    # keys of ``u`` and ``h`` rows
    UTXO_KEY_LEN = 21
    OUTPOINT_KEY_LEN = 14
    # hashX, flush id BE2
    HIST_KEY_LEN = 13
    # hashX, tx_num LE5, value LE8
    UNDO_ITEM_LEN = 24
    # hashX, tx_num BE5
    TOUCH_RECORD_LEN = 16
    # tx_hash, height LE4
    HISTORY_ENTRY_LEN = 36
    # tx_hash, height LE4, txout_idx LE4, value LE8
    PACKED_UTXO_LEN = 48
