# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The hot loops of the bulk sync; ``bulk_sync.reference`` is the pure-Python implementation.

Property tests feed both the same blocks and demand the same results.  Records are those of
``runs.records``: fixed lengths, sorted by their bytes.

A chunk holds its unspent outputs in a hash table: records of 48 bytes lie in one growing array,
freed ones in a list, and an array of 4-byte slots, at most two thirds full, finds them by linear
probing: about 56 bytes an output.  The hash has a random seed, so that an attacker cannot create
transactions that collide.

All loops run without the GIL, except those that call Python for each row.  One thread at a time uses
a chunk; the functions share nothing.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove, memset

import os

from electrumx.server.block_processor._arrays cimport Array, grow, release
from electrumx.server.block_processor._fastblock cimport (
    SPENDABLE_GENESIS,
    SPENDABLE_LEGACY,
    FastBlock,
    TxShape,
)
from electrumx.server.block_processor._fasthistory cimport add_record, sort_records
from electrumx.server.storage._layout cimport HASHX_LEN, OUTPOINT_LEN


cdef enum:
    # as in runs.records
    KEY_LEN = 24
    OUT_LEN = 48
    SPEND_LEN = 29
    HISTORY_LEN = 16
    UTXO_LEN = 28
    ROW_LEN = 24
    ROW_KEY_LEN = 13
    LATE_LEN = 37
    UNDO_LEN = 32
    OVERWRITTEN_LEN = 53
    # an output of a parsed block
    PARSED_LEN = 20
    # records that are sooner sorted by insertion than parted
    FEW_RECORDS = 24
    # the longest record
    MAX_LEN = 48


# -- buffers

cdef class Records:
    """Owns records in memory, and frees them; has the buffer protocol, read-only."""

    cdef Array items
    cdef size_t length
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    def __cinit__(self, size_t length):
        memset(&self.items, 0, sizeof(Array))
        self.length = length

    def __dealloc__(self):
        release(&self.items)

    def __len__(self):
        """Bytes of all records."""
        return self.items.count * self.length

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.shape[0] = self.items.count * self.length
        self.strides[0] = 1
        buffer.buf = <void *> (self.items.data if self.items.data != NULL
                               else <uint8_t *> self.shape)
        buffer.format = "B"
        buffer.internal = NULL
        buffer.itemsize = 1
        buffer.len = self.shape[0]
        buffer.ndim = 1
        buffer.obj = self
        buffer.readonly = 1
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL


cdef Records join_buffers(buffers, size_t length):
    """Return the records of several buffers, one after another."""
    cdef Records found = Records(length)
    cdef const uint8_t[::1] view
    cdef size_t count = 0
    for buffer in buffers:
        count += len(buffer) // length
    if not grow(&found.items, length, count):
        raise MemoryError
    for buffer in buffers:
        if len(buffer):
            view = buffer
            memcpy(found.items.data + length * found.items.count, &view[0], view.shape[0])
            found.items.count += view.shape[0] // length
    return found


# -- sorting

cdef void insert_in_order(uint8_t *data, size_t count, size_t length, size_t at,
                          size_t key_len) noexcept nogil:
    """Sort a few records by insertion; they agree in all bytes before ``at``."""
    cdef uint8_t held[MAX_LEN]
    cdef size_t n, place
    for n in range(1, count):
        place = n
        while place and memcmp(data + length * (place - 1) + at, data + length * n + at,
                               key_len - at) > 0:
            place -= 1
        if place < n:
            memcpy(held, data + length * n, length)
            memmove(data + length * (place + 1), data + length * place, length * (n - place))
            memcpy(data + length * place, held, length)


cdef void sort_from(uint8_t *data, size_t count, size_t length, size_t at,
                    size_t key_len) noexcept nogil:
    """Sort records that agree in all bytes before ``at`` by their first ``key_len``, in place.

    As in ``_fasthistory``: parted by one byte, and the parts by the next.
    """
    cdef size_t ends[256]
    cdef size_t places[256]
    cdef uint8_t held[MAX_LEN]
    cdef uint8_t other[MAX_LEN]
    cdef size_t n, place
    cdef int digit
    if at >= key_len:
        return
    if count <= FEW_RECORDS:
        insert_in_order(data, count, length, at, key_len)
        return
    memset(ends, 0, sizeof(ends))
    for n in range(count):
        ends[data[length * n + at]] += 1
    place = 0
    for digit in range(256):
        places[digit] = place
        place += ends[digit]
        ends[digit] = place
    for digit in range(256):
        while places[digit] < ends[digit]:
            if data[length * places[digit] + at] == digit:
                places[digit] += 1
                continue
            memcpy(held, data + length * places[digit], length)
            while held[at] != digit:
                place = places[held[at]]
                places[held[at]] += 1
                memcpy(other, data + length * place, length)
                memcpy(data + length * place, held, length)
                memcpy(held, other, length)
            memcpy(data + length * places[digit], held, length)
            places[digit] += 1
    place = 0
    for digit in range(256):
        if ends[digit] - place > 1:
            sort_from(data + length * place, ends[digit] - place, length, at + 1, key_len)
        place = ends[digit]


cdef void drop_duplicates(Array *history) noexcept nogil:
    """Keep one of equal records of sorted history."""
    cdef size_t n
    cdef uint8_t *last = history.data
    if not history.count:
        return
    for n in range(1, history.count):
        if memcmp(last, history.data + HISTORY_LEN * n, HISTORY_LEN) != 0:
            last += HISTORY_LEN
            if last != history.data + HISTORY_LEN * n:
                memcpy(last, history.data + HISTORY_LEN * n, HISTORY_LEN)
    history.count = (last - history.data) // HISTORY_LEN + 1


def sort_history(Records taken not None):
    """Return history taken from a chunk, sorted, each record once; in its place."""
    with nogil:
        sort_records(&taken.items)
        drop_duplicates(&taken.items)
    return taken


def merge_history(buffers):
    """Return the history of several buffers, sorted, each record once."""
    return sort_history(join_buffers(buffers, HISTORY_LEN))


def merge_utxos(buffers):
    """Return the utxos of several buffers, sorted."""
    cdef Records found = join_buffers(buffers, UTXO_LEN)
    with nogil:
        sort_from(found.items.data, found.items.count, UTXO_LEN, 0, UTXO_LEN - 8)
    return found


def merge_records(buffers, size_t length):
    """Return the records of several buffers, sorted by all their bytes."""
    cdef Records found = join_buffers(buffers, length)
    if length > MAX_LEN:
        raise ValueError
    with nogil:
        sort_from(found.items.data, found.items.count, length, 0, length)
    return found


def merge_undo(buffers):
    """Return the undo records of several buffers, sorted."""
    cdef Records found = join_buffers(buffers, UNDO_LEN)
    with nogil:
        sort_from(found.items.data, found.items.count, UNDO_LEN, 0, 8)
    return found


# -- a chunk

cdef inline uint64_t load8(const uint8_t *p) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, p, 8)
    return value


cdef inline uint64_t mix(uint64_t value) noexcept nogil:
    """Spread every bit over all (the finaliser of SplitMix64)."""
    value = (value ^ (value >> 30)) * <uint64_t> 0xbf58476d1ce4e5b9
    value = (value ^ (value >> 27)) * <uint64_t> 0x94d049bb133111eb
    return value ^ (value >> 31)


cdef inline void write_key(uint8_t *at, const uint8_t *tx_hash, const uint8_t *idx) noexcept nogil:
    memcpy(at, tx_hash, 4)
    memcpy(at + 4, idx, 4)
    memcpy(at + 8, tx_hash + 4, 16)


cdef inline void write_num(uint8_t *at, uint64_t tx_num) noexcept nogil:
    """Write a transaction number BE5."""
    cdef int n
    for n in range(5):
        at[n] = <uint8_t> (tx_num >> (8 * (4 - n)))


cdef inline void write_be4(uint8_t *at, uint32_t value) noexcept nogil:
    at[0], at[1] = <uint8_t> (value >> 24), <uint8_t> (value >> 16)
    at[2], at[3] = <uint8_t> (value >> 8), <uint8_t> value


cdef inline void write_undo_item(uint8_t *at, const uint8_t *output) noexcept nogil:
    """Write hashX, tx_num LE5, value LE8 of one of the outputs."""
    cdef int n
    memcpy(at, output + SPEND_LEN, HASHX_LEN)
    for n in range(5):
        at[HASHX_LEN + n] = output[KEY_LEN + 4 - n]
    memcpy(at + 16, output + SPEND_LEN + HASHX_LEN, 8)


cdef inline bint is_freed(const uint8_t *output) noexcept nogil:
    """Return whether an output of the table is freed: its number is one that no transaction has."""
    return (output[KEY_LEN] & output[KEY_LEN + 1] & output[KEY_LEN + 2] & output[KEY_LEN + 3]
            & output[KEY_LEN + 4]) == 0xff


def fast_block(bytes header not None, raw not None, bytes tx_hashes not None,
               bytes shapes not None, bytes spends not None, bytes outputs not None):
    """Return a parsed block of the arrays of a ``PackedBlock``."""
    cdef FastBlock block = FastBlock.__new__(FastBlock)
    block.header = header
    block.raw = raw
    block.tx_count = <uint32_t> (PyBytes_GET_SIZE(tx_hashes) // 32)
    fill(&block.hashes, tx_hashes, 32)
    fill(&block.shapes, shapes, sizeof(TxShape))
    fill(&block.spends, spends, OUTPOINT_LEN)
    fill(&block.outputs, outputs, PARSED_LEN)
    assert block.shapes.count == block.tx_count
    return block


cdef int fill(Array *array, bytes items, size_t length) except -1:
    cdef size_t count = PyBytes_GET_SIZE(items) // length
    if not grow(array, length, count):
        raise MemoryError
    memcpy(array.data, PyBytes_AS_STRING(items), count * length)
    array.count = count
    return 0


cdef class Chunk:
    """The remainder of consecutive blocks: unspent outputs, spends of older ones, and history."""

    # used outputs, freed ones among them
    cdef Array table
    # the first freed output plus 1, and outputs alive
    cdef uint32_t freed
    cdef readonly uint32_t recent_count
    # number of an output plus 1, by hash; 0 is free
    cdef uint32_t *slots
    cdef uint64_t slot_mask
    cdef uint64_t seed
    cdef Array coinbase
    cdef Array missed
    cdef Array history
    cdef Array late_spends
    cdef Array undo

    def __cinit__(self):
        memset(&self.late_spends, 0, sizeof(Array))
        memset(&self.undo, 0, sizeof(Array))
        memset(&self.table, 0, sizeof(Array))
        memset(&self.coinbase, 0, sizeof(Array))
        memset(&self.missed, 0, sizeof(Array))
        memset(&self.history, 0, sizeof(Array))
        self.freed = self.recent_count = 0
        self.slot_mask = (1 << 12) - 1
        self.slots = <uint32_t *> calloc(self.slot_mask + 1, sizeof(uint32_t))
        if self.slots == NULL:
            raise MemoryError
        self.seed = int.from_bytes(os.urandom(8), "little")

    def __dealloc__(self):
        free(self.slots)
        release(&self.table)
        release(&self.coinbase)
        release(&self.missed)
        release(&self.history)
        release(&self.late_spends)
        release(&self.undo)

    @property
    def memsize(self):
        """Bytes taken by outputs and spends; room for more is not in memory yet."""
        return ((self.table.count + self.coinbase.count) * OUT_LEN
                + self.missed.count * SPEND_LEN + self.late_spends.count * LATE_LEN + (self.slot_mask + 1) * sizeof(uint32_t))

    @property
    def history_memsize(self):
        """Bytes taken by the history and the undo records not taken yet."""
        return self.history.count * HISTORY_LEN + self.undo.count * UNDO_LEN

    # the table

    cdef inline uint64_t hash_of(self, const uint8_t *key) noexcept nogil:
        return mix(load8(key) ^ self.seed ^ mix(load8(key + 8)) ^ load8(key + 16))

    cdef inline uint64_t find_slot(self, const uint8_t *key) noexcept nogil:
        """Return the slot of a key, or the free slot where it belongs."""
        cdef uint64_t slot = self.hash_of(key) & self.slot_mask
        while self.slots[slot]:
            if memcmp(self.table.data + OUT_LEN * (self.slots[slot] - 1), key, KEY_LEN) == 0:
                break
            slot = (slot + 1) & self.slot_mask
        return slot

    cdef bint make_room(self) noexcept nogil:
        """Make room for one more output; false if there is no memory."""
        cdef uint32_t *slots
        cdef uint64_t size, n, slot
        if self.table.count >= <uint64_t> 0xfffffff0:
            return False
        if 3 * (<uint64_t> self.recent_count + 1) <= 2 * (self.slot_mask + 1):
            return True
        size = 2 * (self.slot_mask + 1)
        slots = <uint32_t *> calloc(size, sizeof(uint32_t))
        if slots == NULL:
            return False
        for n in range(self.slot_mask + 1):
            if self.slots[n]:
                slot = self.hash_of(self.table.data + OUT_LEN * (self.slots[n] - 1)) & (size - 1)
                while slots[slot]:
                    slot = (slot + 1) & (size - 1)
                slots[slot] = self.slots[n]
        free(self.slots)
        self.slots, self.slot_mask = slots, size - 1
        return True

    cdef uint8_t *put(self, const uint8_t *key) noexcept nogil:
        """Return the output of a key, a new one if it is missing; NULL without memory."""
        cdef uint64_t slot
        cdef uint32_t number
        cdef uint8_t *output
        if not self.make_room():
            return NULL
        slot = self.find_slot(key)
        if self.slots[slot]:
            return self.table.data + OUT_LEN * (self.slots[slot] - 1)
        if self.freed:
            number = self.freed
            output = self.table.data + OUT_LEN * (number - 1)
            memcpy(&self.freed, output, sizeof(uint32_t))
        else:
            if not grow(&self.table, OUT_LEN, 1):
                return NULL
            self.table.count += 1
            number = <uint32_t> self.table.count
            output = self.table.data + OUT_LEN * (number - 1)
        memcpy(output, key, KEY_LEN)
        self.slots[slot] = number
        self.recent_count += 1
        return output

    cdef void remove(self, uint64_t slot) noexcept nogil:
        """Free an output, and close the gap that its slot leaves in the run of probes."""
        cdef uint64_t hole = slot
        cdef uint64_t probe = slot
        cdef uint64_t home
        cdef uint32_t number = self.slots[slot]
        cdef uint8_t *output = self.table.data + OUT_LEN * (number - 1)
        memcpy(output, &self.freed, sizeof(uint32_t))
        memset(output + KEY_LEN, 0xff, 5)
        self.freed = number
        self.recent_count -= 1
        while True:
            probe = (probe + 1) & self.slot_mask
            if not self.slots[probe]:
                break
            home = self.hash_of(self.table.data + OUT_LEN * (self.slots[probe] - 1))
            # It may move if its home is not cyclically within (hole, probe].
            if ((probe - home) & self.slot_mask) >= ((probe - hole) & self.slot_mask):
                self.slots[hole] = self.slots[probe]
                hole = probe
        self.slots[hole] = 0

    # blocks

    def add(self, FastBlock block not None, uint64_t first_tx_num, bint after_genesis,
            bint any_order, int64_t undo_height=-1):
        """Add a block, whose first transaction has a number.

        ``after_genesis`` selects the rule for spendable outputs; with ``any_order`` a transaction
        may spend an output of a later one of the block.  ``undo_height`` is the block's height, or
        -1 to make no undo records.
        """
        cdef uint8_t rule = SPENDABLE_GENESIS if after_genesis else SPENDABLE_LEGACY
        cdef bint done
        with nogil:
            done = self.add_block(block, first_tx_num, rule, any_order, undo_height)
        if not done:
            raise MemoryError

    cdef bint add_block(self, FastBlock block, uint64_t first_tx_num, uint8_t rule,
                        bint any_order, int64_t undo_height) noexcept nogil:
        cdef TxShape *shapes = <TxShape *> block.shapes.data
        cdef size_t spend = 0
        cdef size_t output = 0
        cdef uint32_t n
        if not grow(&self.history, HISTORY_LEN, block.spends.count + block.outputs.count):
            return False
        if not grow(&self.missed, SPEND_LEN, block.spends.count):
            return False
        if undo_height >= 0:
            if not grow(&self.late_spends, LATE_LEN, block.spends.count):
                return False
            if not grow(&self.undo, UNDO_LEN, block.spends.count):
                return False
        if any_order:
            for n in range(block.tx_count):
                if not self.add_outputs(block, n, output, first_tx_num + n, rule):
                    return False
                output += shapes[n].outputs
        for n in range(block.tx_count):
            self.spend_all(block.spends.data + OUTPOINT_LEN * spend, shapes[n].spends,
                           first_tx_num + n, undo_height, <uint32_t> spend)
            spend += shapes[n].spends
            if not any_order:
                if not self.add_outputs(block, n, output, first_tx_num + n, rule):
                    return False
                output += shapes[n].outputs
        return True

    cdef void spend_all(self, const uint8_t *outpoint, uint32_t count, uint64_t tx_num,
                        int64_t undo_height, uint32_t number) noexcept nogil:
        """Spend outputs; ``number`` is the first one's among the block's.  The caller has made room."""
        cdef uint8_t key[KEY_LEN]
        cdef uint8_t *missed
        cdef uint8_t *at
        cdef const uint8_t *output
        cdef uint64_t slot
        cdef uint32_t n
        for n in range(count):
            write_key(key, outpoint, outpoint + 32)
            outpoint += OUTPOINT_LEN
            slot = self.find_slot(key)
            if self.slots[slot]:
                output = self.table.data + OUT_LEN * (self.slots[slot] - 1)
                add_record(&self.history, output + SPEND_LEN, tx_num)
                if undo_height >= 0:
                    at = self.undo.data + UNDO_LEN * self.undo.count
                    write_be4(at, <uint32_t> undo_height)
                    write_be4(at + 4, number + n)
                    write_undo_item(at + 8, output)
                    self.undo.count += 1
                self.remove(slot)
            else:
                missed = self.missed.data + SPEND_LEN * self.missed.count
                memcpy(missed, key, KEY_LEN)
                write_num(missed + KEY_LEN, tx_num)
                self.missed.count += 1
                if undo_height >= 0:
                    at = self.late_spends.data + LATE_LEN * self.late_spends.count
                    memcpy(at, missed, SPEND_LEN)
                    write_be4(at + SPEND_LEN, <uint32_t> undo_height)
                    write_be4(at + SPEND_LEN + 4, number + n)
                    self.late_spends.count += 1

    cdef bint add_outputs(self, FastBlock block, uint32_t tx, size_t first, uint64_t tx_num,
                          uint8_t rule) noexcept nogil:
        cdef TxShape *shape = <TxShape *> block.shapes.data + tx
        cdef bint coinbase = tx == 0 and shape.spends == 0
        cdef uint8_t key[KEY_LEN]
        cdef const uint8_t *parsed
        cdef uint8_t *output
        cdef uint32_t idx
        for idx in range(shape.outputs):
            parsed = block.outputs.data + PARSED_LEN * (first + idx)
            if not parsed[19] & rule:
                continue
            write_key(key, block.hashes.data + 32 * tx, <uint8_t *> &idx)
            if coinbase:
                # The join alone decides on them: a duplicate overwrites the first.
                if not grow(&self.coinbase, OUT_LEN, 1):
                    return False
                output = self.coinbase.data + OUT_LEN * self.coinbase.count
                memcpy(output, key, KEY_LEN)
                self.coinbase.count += 1
            else:
                output = self.put(key)
                if output == NULL:
                    return False
            write_num(output + KEY_LEN, tx_num)
            memcpy(output + SPEND_LEN, parsed, HASHX_LEN + 8)
            add_record(&self.history, parsed, tx_num)
        return True

    def add_history(self, bytes hashX not None, uint64_t tx_num):
        """Note that a transaction touches a script."""
        assert len(hashX) == HASHX_LEN
        if not grow(&self.history, HISTORY_LEN, 1):
            raise MemoryError
        add_record(&self.history, <const uint8_t *> PyBytes_AS_STRING(hashX), tx_num)

    def take_history(self):
        """Take the history noted so far, for :func:`sort_history`."""
        cdef Records taken = Records(HISTORY_LEN)
        taken.items = self.history
        memset(&self.history, 0, sizeof(Array))
        return taken

    def take_undo(self):
        """Take the undo records made so far, in sorted order."""
        cdef Records taken = Records(UNDO_LEN)
        taken.items = self.undo
        memset(&self.undo, 0, sizeof(Array))
        return taken

    def late(self):
        """Return those of the spends that need undo records, sorted."""
        cdef Records found = Records(LATE_LEN)
        found.items = self.late_spends
        memset(&self.late_spends, 0, sizeof(Array))
        with nogil:
            sort_from(found.items.data, found.items.count, LATE_LEN, 0, SPEND_LEN)
        return found

    def outputs(self):
        """Return the unspent outputs, sorted.  Empties the table; call it last."""
        cdef Records found = Records(OUT_LEN)
        cdef bint done
        with nogil:
            free(self.slots)
            self.slots = NULL
            done = self.take_outputs(&found.items)
        if not done:
            raise MemoryError
        return found

    cdef bint take_outputs(self, Array *found) noexcept nogil:
        cdef size_t n
        cdef uint8_t *output
        found[0] = self.table
        memset(&self.table, 0, sizeof(Array))
        found.count = 0
        for n in range(found.room if found.data != NULL else 0):
            if found.count == self.recent_count:
                break
            output = found.data + OUT_LEN * n
            if is_freed(output):
                continue
            if n != found.count:
                memcpy(found.data + OUT_LEN * found.count, output, OUT_LEN)
            found.count += 1
        if not grow(found, OUT_LEN, self.coinbase.count):
            return False
        if self.coinbase.count:
            memcpy(found.data + OUT_LEN * found.count, self.coinbase.data,
                   OUT_LEN * self.coinbase.count)
        found.count += self.coinbase.count
        release(&self.coinbase)
        sort_from(found.data, found.count, OUT_LEN, 0, SPEND_LEN)
        return True

    def spends(self):
        """Return the spends of outputs that older chunks have, or that coinbases made, sorted."""
        cdef Records found = Records(SPEND_LEN)
        found.items = self.missed
        memset(&self.missed, 0, sizeof(Array))
        with nogil:
            sort_from(found.items.data, found.items.count, SPEND_LEN, 0, SPEND_LEN)
        return found


# -- the join

cdef struct Join:
    Array *made
    Array *spent
    # those of the spends that need undo records
    Array *marked
    Array *rows
    Array *utxos
    Array *history
    Array *undo
    Array *overwritten
    # a spend without an output
    const uint8_t *bad


def join(outputs, spends, late=()):
    """Match spends with the outputs of the same outpoints; ``late`` has some of them again.

    A repeated output overwrites the one before; a spend is of the last output before it.  Raise
    KeyError with the outpoint's key and the spender's number if that is missing.  Return the fields
    of ``records.Joined``.
    """
    cdef Records made = join_buffers(outputs, OUT_LEN)
    cdef Records spent = join_buffers(spends, SPEND_LEN)
    cdef Records marked = join_buffers(late, LATE_LEN)
    cdef Records rows = Records(ROW_LEN)
    cdef Records utxos = Records(UTXO_LEN)
    cdef Records history = Records(HISTORY_LEN)
    cdef Records undo = Records(UNDO_LEN)
    cdef Records overwritten = Records(OVERWRITTEN_LEN)
    cdef Join state
    cdef bint done
    state.made, state.spent, state.marked = &made.items, &spent.items, &marked.items
    state.rows, state.utxos, state.history = &rows.items, &utxos.items, &history.items
    state.undo, state.overwritten, state.bad = &undo.items, &overwritten.items, NULL
    with nogil:
        sort_from(made.items.data, made.items.count, OUT_LEN, 0, SPEND_LEN)
        sort_from(spent.items.data, spent.items.count, SPEND_LEN, 0, SPEND_LEN)
        sort_from(marked.items.data, marked.items.count, LATE_LEN, 0, SPEND_LEN)
        done = join_sorted(&state)
        if done:
            release(&made.items)
            release(&spent.items)
            # They are in the order of their first 8 bytes, so that next to none has to move.
            insert_in_order(rows.items.data, rows.items.count, ROW_LEN, 0, ROW_KEY_LEN)
            sort_from(utxos.items.data, utxos.items.count, UTXO_LEN, 0, UTXO_LEN - 8)
            sort_records(&history.items)
            drop_duplicates(&history.items)
            sort_from(undo.items.data, undo.items.count, UNDO_LEN, 0, 8)
    if state.bad != NULL:
        key = PyBytes_FromStringAndSize(<char *> state.bad, KEY_LEN)
        number = PyBytes_FromStringAndSize(<char *> state.bad + KEY_LEN, 5)
        raise KeyError(key, int.from_bytes(number, "big"))
    if not done:
        raise MemoryError
    return rows, utxos, history, undo, overwritten


cdef bint join_sorted(Join *join) noexcept nogil:
    """Join the sorted records; false if there is no memory, or with the spend that is bad."""
    cdef const uint8_t *output = join.made.data
    cdef const uint8_t *outputs_end = output + OUT_LEN * join.made.count
    cdef const uint8_t *spend = join.spent.data
    cdef const uint8_t *spends_end = spend + SPEND_LEN * join.spent.count
    cdef const uint8_t *unspent = NULL
    cdef size_t late = 0
    if not grow(join.history, HISTORY_LEN, join.spent.count):
        return False
    if not grow(join.undo, UNDO_LEN, join.marked.count):
        return False
    while output != outputs_end or spend != spends_end:
        # The next event: by key, then by number; of equal ones the output.
        if spend == spends_end or (output != outputs_end
                                   and memcmp(output, spend, SPEND_LEN) <= 0):
            if unspent != NULL and not add_overwritten(join.overwritten, output, unspent):
                return False
            unspent = output
            output += OUT_LEN
        else:
            if unspent == NULL:
                join.bad = spend
                return False
            add_match(join, unspent, spend, &late)
            unspent = NULL
            spend += SPEND_LEN
        if unspent == NULL:
            continue
        # Is there another event of this outpoint?
        if output != outputs_end and memcmp(output, unspent, KEY_LEN) == 0:
            continue
        if spend != spends_end and memcmp(spend, unspent, KEY_LEN) == 0:
            continue
        if not add_utxo(join.rows, join.utxos, unspent):
            return False
        unspent = NULL
    return True


cdef void add_match(Join *join, const uint8_t *output, const uint8_t *spend,
                    size_t *late) noexcept nogil:
    """Note that a spend spends an output; ``late`` is the next of the marked spends."""
    cdef uint8_t *at = join.history.data + HISTORY_LEN * join.history.count
    memcpy(at, output + SPEND_LEN, HASHX_LEN)
    memcpy(at + HASHX_LEN, spend + KEY_LEN, 5)
    join.history.count += 1
    if late[0] == join.marked.count:
        return
    if memcmp(join.marked.data + LATE_LEN * late[0], spend, SPEND_LEN) == 0:
        at = join.undo.data + UNDO_LEN * join.undo.count
        memcpy(at, join.marked.data + LATE_LEN * late[0] + SPEND_LEN, 8)
        write_undo_item(at + 8, output)
        join.undo.count += 1
        late[0] += 1


cdef bint add_overwritten(Array *overwritten, const uint8_t *output,
                          const uint8_t *unspent) noexcept nogil:
    cdef uint8_t *at
    if not grow(overwritten, OVERWRITTEN_LEN, 1):
        return False
    at = overwritten.data + OVERWRITTEN_LEN * overwritten.count
    memcpy(at, output + KEY_LEN, 5)
    memcpy(at + 5, unspent, OUT_LEN)
    overwritten.count += 1
    return True


cdef bint add_utxo(Array *rows, Array *utxos, const uint8_t *output) noexcept nogil:
    cdef uint8_t *row
    cdef uint8_t *utxo
    cdef int n
    if not grow(rows, ROW_LEN, 1) or not grow(utxos, UTXO_LEN, 1):
        return False
    row = rows.data + ROW_LEN * rows.count
    utxo = utxos.data + UTXO_LEN * utxos.count
    memcpy(row, output, 8)
    for n in range(5):
        row[8 + n] = output[KEY_LEN + 4 - n]
    memcpy(row + ROW_KEY_LEN, output + SPEND_LEN, HASHX_LEN)
    memcpy(utxo, output + SPEND_LEN, HASHX_LEN)
    memcpy(utxo + HASHX_LEN, row + 4, 9)
    memcpy(utxo + 20, output + SPEND_LEN + HASHX_LEN, 8)
    rows.count += 1
    utxos.count += 1
    return True


# -- rows

def put_outpoint_rows(put, const uint8_t[::1] rows, size_t first, size_t max_bytes):
    """Call ``put(key, value)`` for ``h`` rows from the ``first`` on, for ``max_bytes`` or more.

    Return the number of the next row; the number of rows at the end.
    """
    cdef size_t count = rows.shape[0] // ROW_LEN
    cdef size_t size = 0
    cdef const uint8_t *row
    cdef uint8_t key[ROW_KEY_LEN + 1]
    key[0] = 0x68
    while first < count and size < max_bytes:
        row = &rows[0] + ROW_LEN * first
        memcpy(key + 1, row, ROW_KEY_LEN)
        put(PyBytes_FromStringAndSize(<char *> key, ROW_KEY_LEN + 1),
            PyBytes_FromStringAndSize(<char *> row + ROW_KEY_LEN, HASHX_LEN))
        size += ROW_LEN + 1
        first += 1
    return first


def put_utxo_rows(put, const uint8_t[::1] utxos, size_t first, size_t max_bytes):
    """Do the same for the ``u`` rows of sorted utxos."""
    cdef size_t count = utxos.shape[0] // UTXO_LEN
    cdef size_t size = 0
    cdef const uint8_t *utxo
    cdef uint8_t key[21]
    key[0] = 0x75
    while first < count and size < max_bytes:
        utxo = &utxos[0] + UTXO_LEN * first
        memcpy(key + 1, utxo, 20)
        put(PyBytes_FromStringAndSize(<char *> key, 21),
            PyBytes_FromStringAndSize(<char *> utxo + 20, 8))
        size += UTXO_LEN + 1
        first += 1
    return first


def put_undo_rows(put, const uint8_t[::1] undo, uint32_t first_height, uint32_t last_height):
    """Call ``put(height, items)`` for each height of a range with the items of its records.

    The records are sorted; those of other heights are left out.
    """
    cdef size_t count = undo.shape[0] // UNDO_LEN
    cdef const uint8_t *data = &undo[0] if count else NULL
    cdef uint8_t height_be[4]
    cdef size_t first = 0
    cdef size_t end, n
    cdef uint64_t height
    cdef uint8_t *items
    write_be4(height_be, first_height)
    while first < count and memcmp(data + UNDO_LEN * first, height_be, 4) < 0:
        first += 1
    for height in range(first_height, <uint64_t> last_height + 1):
        write_be4(height_be, <uint32_t> height)
        end = first
        while end < count and memcmp(data + UNDO_LEN * end, height_be, 4) == 0:
            end += 1
        row = PyBytes_FromStringAndSize(NULL, 24 * (end - first))
        items = <uint8_t *> PyBytes_AS_STRING(row)
        for n in range(first, end):
            memcpy(items, data + UNDO_LEN * n + 8, 24)
            items += 24
        put(height, row)
        first = end


cdef class HistoryRows:
    """Makes rows of sorted history; its state goes on from one buffer to the next.

    A row has at most ``row_entries`` numbers; a script that has more gets several rows with ids
    from 1 on.  ``hashX`` and ``flush_id`` are those of the last row made, if there is one.
    """

    cdef readonly size_t row_entries
    cdef readonly bytes hashX
    cdef readonly uint32_t flush_id
    cdef readonly uint32_t max_flush_id

    def __init__(self, size_t row_entries, bytes hashX not None=b"", uint32_t flush_id=0):
        self.row_entries = row_entries
        self.hashX = hashX
        self.flush_id = self.max_flush_id = flush_id

    def put_rows(self, put, const uint8_t[::1] history, size_t first, size_t max_bytes):
        """Call ``put(key, row)`` for records from the ``first`` on, for ``max_bytes`` or more.

        Return the number of the next record; the number of records at the end.
        """
        cdef size_t count = history.shape[0] // HISTORY_LEN
        cdef const uint8_t *data = &history[0] if count else NULL
        cdef uint8_t last_hashX[11]
        cdef bint has_last = len(self.hashX) == HASHX_LEN
        cdef uint32_t flush_id = self.flush_id
        cdef size_t size = 0
        cdef size_t end, n
        cdef uint8_t key[13]
        cdef uint8_t *row
        cdef int k
        if has_last:
            memcpy(last_hashX, PyBytes_AS_STRING(self.hashX), HASHX_LEN)
        while first < count and size < max_bytes:
            end = first + 1
            while (end < count and end - first < self.row_entries
                   and memcmp(data + HISTORY_LEN * end, data + HISTORY_LEN * first,
                              HASHX_LEN) == 0):
                end += 1
            value = PyBytes_FromStringAndSize(NULL, 5 * (end - first))
            row = <uint8_t *> PyBytes_AS_STRING(value)
            for n in range(first, end):
                for k in range(5):
                    row[k] = data[HISTORY_LEN * n + 15 - k]
                row += 5
            memcpy(key, data + HISTORY_LEN * first, HASHX_LEN)
            if has_last and memcmp(key, last_hashX, HASHX_LEN) == 0:
                flush_id += 1
            else:
                flush_id = 1
            memcpy(last_hashX, key, HASHX_LEN)
            has_last = True
            key[11], key[12] = <uint8_t> (flush_id >> 8), <uint8_t> flush_id
            self.max_flush_id = max(self.max_flush_id, flush_id)
            put(PyBytes_FromStringAndSize(<char *> key, 13), value)
            size += 13 + 5 * (end - first)
            first = end
        self.flush_id = flush_id
        if has_last:
            self.hashX = PyBytes_FromStringAndSize(<char *> last_hashX, HASHX_LEN)
        return first
