# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Indexes parsed blocks in Cython: UTXOs created and spent, and the history this writes.

The reference implementation is pure Python (``indexer``, ``utxo_cache`` and ``History.unflushed``):
property tests feed both the same blocks and compare the results.  Blocks come parsed, from
``_fastblock``; history goes to ``_fasthistory``.

The index holds unflushed data:

- a hash table from outpoint to UTXO.  Entries of 64 bytes are in one growing array, freed ones in a
  free list; a second array of 4-byte slots, at most two thirds full, finds them by linear probing.
  The hash has a random seed, so that an attacker cannot create transactions that collide.  About 72
  bytes a UTXO, against 205 of a Python dictionary of bytes.  An entry is *new*, for the next flush,
  or *written*: on disk, or in the flush in progress.  Written ones save a look-up when they are spent;
  :meth:`FastIndex.evict_written` drops the oldest;
- the numbers of the entries that became new, while they are few: a flush of one block then
  need not look at every entry;
- the spent UTXOs that are on disk (24 bytes each), to delete there, and a set of their rows
  that shows whether a row on disk is already spent;
- the history of all that (:class:`FastHistory`).

A flush writes *frozen* arrays (:meth:`FastIndex.freeze_utxos`, :meth:`FastHistory.freeze`): new UTXOs
of 32 bytes, deletes, records.  From then on one thread may sort and write them
while another advances blocks.

Spends that miss the table take a look-up on disk before the index advances a batch of blocks
(:meth:`FastIndex.missing`, :meth:`FastIndex.provide`), so that the loop that advances a block
needs neither Python nor the disk and runs without the GIL.

Runs in: one thread at a time, with the state lock held; one more may write the frozen arrays.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

import os

from electrumx.server.block_processor._arrays cimport Array, grow, release
from electrumx.server.block_processor._fastblock cimport (
    SPENDABLE_GENESIS,
    SPENDABLE_LEGACY,
    FastBlock,
    TxShape,
)
from electrumx.server.block_processor._fasthistory cimport FastHistory, add_record, sort_records
from electrumx.server.block_processor._layout cimport (
    DELETE_LEN,
    FROZEN_LEN,
    OUTPUT_FLAGS,
    OUTPUT_LEN,
    ROW_ID_LEN,
    UTXO_VALUE,
)
from electrumx.server.storage._layout cimport (
    HASH_LEN,
    HASHX_LEN,
    OUTPOINT_KEY_LEN,
    OUTPOINT_LEN,
    SUFFIX_LEN,
    TOUCH_RECORD_LEN,
    TX_HASH_PREFIX_LEN,
    TXNUM_LEN,
    TXOUT_IDX_LEN,
    UNDO_ITEM_LEN,
    UTXO_KEY_LEN,
    VALUE_LEN,
)


cdef enum:
    # marks of an entry: to write, or on disk already
    NEW = 0
    WRITTEN = 1
    # number of buckets by age
    AGES = 4096
    # note new entries while they are less than one in so many of all, and some more
    FEW_NEWS = 4
    MANY_NEWS = 4096
    # first bytes of the keys, ``h`` and ``u``
    OUTPOINT_PREFIX = 0x68
    UTXO_PREFIX = 0x75
    # offset of an item's number in a record that is sorted
    ORDER_NUMBER = TOUCH_RECORD_LEN - 4


# above the five bytes of a tx_num
cdef uint64_t TAKEN = <uint64_t> 1 << 40


cdef struct SpentRow:
    # tx_hash[:4] and txout_idx LE4; tx_num LE5, and a bit above it that shows that a slot is taken
    uint64_t head
    uint64_t tail


cdef struct Entry:
    uint8_t outpoint[OUTPOINT_LEN]
    uint8_t utxo[UNDO_ITEM_LEN]
    # NEW or WRITTEN; of a freed entry, the number of the next freed one
    uint32_t mark


cdef inline uint64_t load8(const uint8_t *p) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, p, 8)
    return value


cdef inline uint64_t mix(uint64_t value) noexcept nogil:
    """Spread every bit over all (the finaliser of SplitMix64)."""
    value = (value ^ (value >> 30)) * <uint64_t> 0xbf58476d1ce4e5b9
    value = (value ^ (value >> 27)) * <uint64_t> 0x94d049bb133111eb
    return value ^ (value >> 31)


cdef inline uint64_t tx_num_of(Entry *entry) noexcept nogil:
    cdef uint64_t tx_num = 0
    memcpy(&tx_num, entry.utxo + HASHX_LEN, TXNUM_LEN)
    return tx_num


cdef inline void write_keys(uint8_t *item, const Entry *entry) noexcept nogil:
    """Write the parts of the keys of a UTXO's rows: see ``DELETE_LEN``."""
    memcpy(item, entry.outpoint, TX_HASH_PREFIX_LEN)
    item += TX_HASH_PREFIX_LEN
    memcpy(item, entry.outpoint + HASH_LEN, TXOUT_IDX_LEN)
    item += TXOUT_IDX_LEN
    memcpy(item, entry.utxo + HASHX_LEN, TXNUM_LEN)
    memcpy(item + TXNUM_LEN, entry.utxo, HASHX_LEN)


cdef inline void fill_entry(Entry *entry, const uint8_t *output, uint64_t tx_num) noexcept nogil:
    """Set the UTXO of an output of a transaction."""
    memcpy(entry.utxo, output, HASHX_LEN)
    memcpy(entry.utxo + HASHX_LEN, &tx_num, TXNUM_LEN)
    memcpy(entry.utxo + UTXO_VALUE, output + HASHX_LEN, VALUE_LEN)


cdef bint order_by(Array *order, Array *items, size_t length, size_t at) noexcept nogil:
    """List the numbers of items, sorted by their eleven bytes at ``at``."""
    cdef size_t n
    cdef uint8_t *record
    order.count = 0
    if not grow(order, TOUCH_RECORD_LEN, items.count):
        return False
    for n in range(items.count):
        record = order.data + TOUCH_RECORD_LEN * n
        memcpy(record, items.data + length * n + at, HASHX_LEN)
        # A record's tx_num is big-endian and stands for the number of the item.
        memset(record + HASHX_LEN, 0, 1)
        memcpy(record + ORDER_NUMBER, &n, 4)
    order.count = items.count
    sort_records(order)
    return True


cdef inline size_t ordered(Array *order, size_t n) noexcept nogil:
    """Return the number of the ``n``-th item."""
    cdef uint32_t number
    memcpy(&number, order.data + TOUCH_RECORD_LEN * n + ORDER_NUMBER, 4)
    return number


cdef inline uint32_t coinbase_output_count(FastBlock block) noexcept:
    """Return how many outputs a block's coinbase transaction has; 0 without one."""
    cdef TxShape *first = <TxShape *> block.shapes.data
    return 0 if not block.tx_count or first.spends else first.outputs


cdef inline SpentRow spent_row(const uint8_t *row) noexcept nogil:
    """Return the row of an outpoint from tx_hash[:4], txout_idx LE4, tx_num LE5."""
    cdef SpentRow result
    result.head = load8(row)
    result.tail = 0
    memcpy(&result.tail, row + ROW_ID_LEN - TXNUM_LEN, TXNUM_LEN)
    result.tail |= TAKEN
    return result


cdef class FastIndex:
    """UTXOs and history not yet flushed."""

    cdef Entry *entries
    # entries in use or freed, and allocated
    cdef uint32_t used
    cdef uint32_t room
    # the first freed entry plus 1, entries in use, and those of them that are new
    cdef uint32_t freed
    cdef readonly uint32_t utxo_count
    cdef uint32_t new_count
    # entry number plus 1 by hash; 0 is free
    cdef uint32_t *slots
    cdef uint64_t slot_mask
    cdef uint64_t seed
    cdef Array deletes
    # rows on disk that are spent; one of zeros is free.  Rows of a flush stay there after its end, when
    # they are no longer on disk, until the thread that indexes drops them
    cdef SpentRow *spent
    cdef uint64_t spent_mask
    cdef bint spent_stale
    # numbers of entries that became new; lost when they are too many
    cdef Array news
    cdef bint news_lost
    # arrays that the flush in progress writes
    cdef readonly bint utxos_frozen
    cdef Array frozen_utxos
    cdef Array frozen_deletes
    cdef readonly FastHistory history

    def __cinit__(self):
        self.entries = NULL
        self.used = self.room = self.freed = self.utxo_count = self.new_count = 0
        self.slots, self.spent = NULL, NULL
        self.utxos_frozen = self.news_lost = self.spent_stale = False
        memset(&self.news, 0, sizeof(Array))
        memset(&self.deletes, 0, sizeof(Array))
        memset(&self.frozen_utxos, 0, sizeof(Array))
        memset(&self.frozen_deletes, 0, sizeof(Array))
        self.history = FastHistory()
        self.start_tables()
        self.seed = int.from_bytes(os.urandom(8), "little")

    cdef int start_tables(self) except -1:
        """Allocate the smallest tables, empty."""
        self.slot_mask = self.spent_mask = (1 << 12) - 1
        self.slots = <uint32_t *> calloc(self.slot_mask + 1, sizeof(uint32_t))
        self.spent = <SpentRow *> calloc(self.spent_mask + 1, sizeof(SpentRow))
        if self.slots == NULL or self.spent == NULL:
            raise MemoryError
        return 0

    def __dealloc__(self):
        free(self.entries)
        free(self.slots)
        free(self.spent)
        release(&self.news)
        release(&self.deletes)
        release(&self.frozen_utxos)
        release(&self.frozen_deletes)

    # the table

    cdef inline uint64_t hash_of(self, const uint8_t *outpoint) noexcept nogil:
        cdef uint32_t idx
        memcpy(&idx, outpoint + HASH_LEN, TXOUT_IDX_LEN)
        return mix(load8(outpoint) ^ self.seed ^ mix(load8(outpoint + 8) + idx))

    cdef inline uint64_t find_slot(self, const uint8_t *outpoint) noexcept nogil:
        """Return the slot of an outpoint, or the free slot where it belongs."""
        cdef uint64_t slot = self.hash_of(outpoint) & self.slot_mask
        while self.slots[slot]:
            if memcmp(self.entries[self.slots[slot] - 1].outpoint, outpoint, OUTPOINT_LEN) == 0:
                break
            slot = (slot + 1) & self.slot_mask
        return slot

    cdef bint make_room(self) noexcept nogil:
        """Allocate room for one more entry; return false without memory."""
        cdef Entry *entries
        cdef uint32_t *slots
        cdef uint64_t room, size, n, slot
        if not self.freed and self.used == self.room:
            room = self.room + <uint64_t> self.room // 4 + 4096
            if room > <uint64_t> 0xfffffff0:
                return False
            entries = <Entry *> realloc(self.entries, room * sizeof(Entry))
            if entries == NULL:
                return False
            self.entries, self.room = entries, <uint32_t> room
        if 3 * (<uint64_t> self.utxo_count + 1) > 2 * (self.slot_mask + 1):
            size = 2 * (self.slot_mask + 1)
            slots = <uint32_t *> calloc(size, sizeof(uint32_t))
            if slots == NULL:
                return False
            for n in range(self.slot_mask + 1):
                if self.slots[n]:
                    slot = self.hash_of(self.entries[self.slots[n] - 1].outpoint) & (size - 1)
                    while slots[slot]:
                        slot = (slot + 1) & (size - 1)
                    slots[slot] = self.slots[n]
            free(self.slots)
            self.slots, self.slot_mask = slots, size - 1
        return True

    cdef Entry *put(self, const uint8_t *outpoint) noexcept nogil:
        """Return the entry of an outpoint, created if it is missing; NULL without memory."""
        cdef uint64_t slot
        cdef uint32_t number
        cdef Entry *entry
        if not self.make_room():
            return NULL
        slot = self.find_slot(outpoint)
        if self.slots[slot]:
            return &self.entries[self.slots[slot] - 1]
        if self.freed:
            number = self.freed
            entry = &self.entries[number - 1]
            self.freed = entry.mark
        else:
            self.used += 1
            number = self.used
            entry = &self.entries[number - 1]
        memcpy(entry.outpoint, outpoint, OUTPOINT_LEN)
        entry.mark = WRITTEN
        self.slots[slot] = number
        self.utxo_count += 1
        return entry

    cdef inline void mark(self, Entry *entry, uint32_t mark) noexcept nogil:
        """Change the mark of an entry in use."""
        if entry.mark == NEW:
            self.new_count -= 1
        if mark == NEW:
            self.new_count += 1
            self.note_new(<uint32_t> (entry - self.entries))
        entry.mark = mark

    cdef inline void note_new(self, uint32_t number) noexcept nogil:
        """Note the number of an entry that becomes new, unless they are too many."""
        if self.news_lost:
            return
        if self.news.count * FEW_NEWS > self.utxo_count + MANY_NEWS or not grow(
                &self.news, sizeof(uint32_t), 1):
            self.news_lost = True
            release(&self.news)
            return
        (<uint32_t *> self.news.data)[self.news.count] = number
        self.news.count += 1

    cdef void remove(self, uint64_t slot) noexcept nogil:
        """Free an entry, and close the gap that its slot leaves in the run of probes."""
        cdef uint64_t hole = slot
        cdef uint64_t probe = slot
        cdef uint64_t home
        cdef uint32_t number = self.slots[slot]
        self.mark(&self.entries[number - 1], WRITTEN)
        self.entries[number - 1].mark = self.freed
        self.freed = number
        self.utxo_count -= 1
        while True:
            probe = (probe + 1) & self.slot_mask
            if not self.slots[probe]:
                break
            home = self.hash_of(self.entries[self.slots[probe] - 1].outpoint) & self.slot_mask
            # It may move if its home is not cyclically within (hole, probe].
            if ((probe - home) & self.slot_mask) >= ((probe - hole) & self.slot_mask):
                self.slots[hole] = self.slots[probe]
                hole = probe
        self.slots[hole] = 0

    # rows on disk that are spent

    cdef inline uint64_t spent_slot(self, const SpentRow *row, uint64_t mask) noexcept nogil:
        """Return the slot where the search for a row begins."""
        return mix(row.head ^ self.seed ^ mix(row.tail)) & mask

    cdef bint note_spent(self, const uint8_t *row) noexcept nogil:
        cdef SpentRow *bigger
        cdef uint64_t size, n, slot
        self.drop_stale()
        if 2 * (self.deletes.count + self.frozen_deletes.count + 1) > self.spent_mask:
            size = 2 * (self.spent_mask + 1)
            bigger = <SpentRow *> calloc(size, sizeof(SpentRow))
            if bigger == NULL:
                return False
            for n in range(self.spent_mask + 1):
                if self.spent[n].tail:
                    slot = self.spent_slot(&self.spent[n], size - 1)
                    while bigger[slot].tail:
                        slot = (slot + 1) & (size - 1)
                    bigger[slot] = self.spent[n]
            free(self.spent)
            self.spent, self.spent_mask = bigger, size - 1
        self.put_spent(row)
        return True

    cdef inline void drop_stale(self) noexcept nogil:
        """Keep only the rows that are still to delete, after a flush has ended."""
        cdef size_t k
        if not self.spent_stale:
            return
        self.spent_stale = False
        memset(self.spent, 0, (self.spent_mask + 1) * sizeof(SpentRow))
        for k in range(self.deletes.count):
            self.put_spent(self.deletes.data + DELETE_LEN * k)

    cdef void put_spent(self, const uint8_t *row) noexcept nogil:
        """Note a row; the caller has allocated room."""
        cdef SpentRow value = spent_row(row)
        cdef uint64_t slot = self.spent_slot(&value, self.spent_mask)
        while self.spent[slot].tail:
            slot = (slot + 1) & self.spent_mask
        self.spent[slot] = value

    def __contains__(self, bytes key not None):
        """Return whether the ``h`` row with this key, 14 bytes, is spent but still on disk."""
        cdef SpentRow value
        cdef uint64_t slot
        if PyBytes_GET_SIZE(key) != OUTPOINT_KEY_LEN:
            return False
        self.drop_stale()
        value = spent_row(<const uint8_t *> PyBytes_AS_STRING(key) + 1)
        slot = self.spent_slot(&value, self.spent_mask)
        while self.spent[slot].tail:
            if self.spent[slot].head == value.head and self.spent[slot].tail == value.tail:
                return True
            slot = (slot + 1) & self.spent_mask
        return False

    # advancing

    def missing(self, list blocks not None):
        """Return the outpoints that these blocks spend and that neither they create nor the table has.

        As bytes of 36 each.  The blocks are consecutive.
        """
        cdef FastIndex made
        cdef Array found
        cdef FastBlock block
        cdef bint done
        memset(&found, 0, sizeof(Array))
        try:
            for item in blocks:
                block = item
                with nogil:
                    done = self.find_absent(block, &found)
                if not done:
                    raise MemoryError
            if not found.count:
                return []
            # The blocks create most of them themselves.
            made = FastIndex.__new__(FastIndex)
            for item in blocks:
                block = item
                with nogil:
                    done = made.note_transactions(block)
                if not done:
                    raise MemoryError
            with nogil:
                done = made.drop_made(&found)
            if not done:
                raise MemoryError
            return [
                PyBytes_FromStringAndSize(<char *> found.data + OUTPOINT_LEN * n, OUTPOINT_LEN)
                for n in range(found.count)
            ]
        finally:
            release(&found)

    cdef bint find_absent(self, FastBlock block, Array *found) noexcept nogil:
        """Append those of a block's spends to ``found`` that the table does not have."""
        cdef size_t k
        cdef const uint8_t *spend
        for k in range(block.spends.count):
            spend = block.spends.data + OUTPOINT_LEN * k
            if self.slots[self.find_slot(spend)]:
                continue
            if not grow(found, OUTPOINT_LEN, 1):
                return False
            memcpy(found.data + OUTPOINT_LEN * found.count, spend, OUTPOINT_LEN)
            found.count += 1
        return True

    cdef bint note_transactions(self, FastBlock block) noexcept nogil:
        """Put an entry, with an index that no output has, for each transaction of a block."""
        cdef uint8_t outpoint[OUTPOINT_LEN]
        cdef uint32_t n
        memset(outpoint + HASH_LEN, 0xff, TXOUT_IDX_LEN)
        for n in range(block.tx_count):
            memcpy(outpoint, block.hashes.data + HASH_LEN * n, HASH_LEN)
            if self.put(outpoint) == NULL:
                return False
        return True

    cdef bint drop_made(self, Array *found) noexcept nogil:
        """Keep the outpoints in ``found`` of transactions not noted here, without duplicates."""
        cdef uint8_t outpoint[OUTPOINT_LEN]
        cdef uint8_t *spend
        cdef size_t k
        cdef size_t kept = 0
        memset(outpoint + HASH_LEN, 0xff, TXOUT_IDX_LEN)
        for k in range(found.count):
            spend = found.data + OUTPOINT_LEN * k
            memcpy(outpoint, spend, HASH_LEN)
            if self.slots[self.find_slot(outpoint)] or self.slots[self.find_slot(spend)]:
                continue
            if self.put(spend) == NULL:
                return False
            memmove(found.data + OUTPOINT_LEN * kept, spend, OUTPOINT_LEN)
            kept += 1
        found.count = kept
        return True

    def coinbase_outpoints(self, list blocks not None):
        """Return the outpoints that the blocks' coinbases create and that the table does not have.

        As bytes of 36 each.
        """
        cdef FastBlock block
        cdef uint8_t outpoint[OUTPOINT_LEN]
        cdef uint32_t idx
        cdef list found = []
        for item in blocks:
            block = item
            if not block.tx_count:
                # Without transactions there is nothing to copy from.
                continue
            memcpy(outpoint, block.hashes.data, HASH_LEN)
            for idx in range(coinbase_output_count(block)):
                memcpy(outpoint + HASH_LEN, &idx, TXOUT_IDX_LEN)
                if block.outputs.data[OUTPUT_LEN * idx + OUTPUT_FLAGS] and not self.slots[
                        self.find_slot(outpoint)]:
                    found.append(PyBytes_FromStringAndSize(<char *> outpoint, OUTPOINT_LEN))
        return found

    def provide(self, bytes outpoint not None, bytes utxo not None):
        """Put a UTXO that is on disk into the table; the next block may spend it."""
        cdef Entry *entry
        assert len(outpoint) == OUTPOINT_LEN and len(utxo) == UNDO_ITEM_LEN
        entry = self.put(<const uint8_t *> PyBytes_AS_STRING(outpoint))
        if entry == NULL:
            raise MemoryError
        memcpy(entry.utxo, PyBytes_AS_STRING(utxo), UNDO_ITEM_LEN)
        self.mark(entry, WRITTEN)

    def advance(self, FastBlock block not None, uint64_t first_tx_num, bint after_genesis,
                bint any_order):
        """Index a block; return its undo items, joined.

        ``after_genesis`` selects the rule by which outputs are unspendable.  Raise KeyError with the outpoint
        if one that is spent does not exist; the index is then inconsistent.
        """
        cdef uint8_t rule = SPENDABLE_GENESIS if after_genesis else SPENDABLE_LEGACY
        cdef bytes overwritten = self.overwrite(block, rule)
        cdef bytes undo = PyBytes_FromStringAndSize(NULL, block.spends.count * UNDO_ITEM_LEN)
        cdef uint8_t *items = <uint8_t *> PyBytes_AS_STRING(undo)
        cdef int64_t verdict
        with nogil:
            verdict = self.advance_block(block, first_tx_num, rule, any_order, items)
        if verdict == -2:
            raise MemoryError
        if verdict >= 0:
            raise KeyError(PyBytes_FromStringAndSize(
                <char *> block.spends.data + OUTPOINT_LEN * verdict, OUTPOINT_LEN))
        return overwritten + undo if overwritten else undo

    cdef bytes overwrite(self, FastBlock block, uint8_t rule):
        """Remove the UTXOs that a block's coinbase creates again; return the undo items for them."""
        cdef uint8_t outpoint[OUTPOINT_LEN]
        cdef uint32_t idx
        cdef uint32_t count = coinbase_output_count(block)
        cdef bint found = False
        cdef uint64_t slot
        cdef list items = []
        if not count:
            return b""
        memcpy(outpoint, block.hashes.data, HASH_LEN)
        for idx in range(count):
            memcpy(outpoint + HASH_LEN, &idx, TXOUT_IDX_LEN)
            found = found or self.slots[self.find_slot(outpoint)] != 0
        if not found:
            return b""
        for idx in range(count):
            if not block.outputs.data[OUTPUT_LEN * idx + OUTPUT_FLAGS] & rule:
                continue
            memcpy(outpoint + HASH_LEN, &idx, TXOUT_IDX_LEN)
            slot = self.find_slot(outpoint)
            if not self.slots[slot]:
                items.append(bytes(UNDO_ITEM_LEN))
                continue
            items.append(PyBytes_FromStringAndSize(
                <char *> self.entries[self.slots[slot] - 1].utxo, UNDO_ITEM_LEN))
            if not self.drop(slot):
                raise MemoryError
        return b"".join(items)

    cdef int64_t advance_block(self, FastBlock block, uint64_t first_tx_num, uint8_t rule,
                               bint any_order, uint8_t *undo) noexcept nogil:
        """Return -1, or -2 without memory, or the number of the spend that failed."""
        cdef TxShape *shapes = <TxShape *> block.shapes.data
        cdef size_t spend = 0
        cdef size_t output = 0
        cdef uint32_t n, m
        if not grow(&self.history.records, TOUCH_RECORD_LEN, block.spends.count + block.outputs.count):
            return -2
        if any_order:
            for n in range(block.tx_count):
                if not self.put_outputs(block, n, output, shapes[n].outputs,
                                        first_tx_num + n, rule, True):
                    return -2
                output += shapes[n].outputs
        for n in range(block.tx_count):
            for m in range(shapes[n].spends):
                if not self.spend(block.spends.data + OUTPOINT_LEN * spend,
                                  undo + UNDO_ITEM_LEN * spend, first_tx_num + n):
                    return spend
                spend += 1
            if not any_order:
                if not self.put_outputs(block, n, output, shapes[n].outputs,
                                        first_tx_num + n, rule, True):
                    return -2
                output += shapes[n].outputs
        return -1

    cdef inline bint put_outputs(self, FastBlock block, uint32_t tx, size_t first, uint32_t count,
                                 uint64_t tx_num, uint8_t rule, bint is_new) noexcept nogil:
        """Put the UTXOs of a transaction: new ones and their history, or those that are on disk."""
        cdef uint8_t outpoint[OUTPOINT_LEN]
        cdef const uint8_t *output
        cdef Entry *entry
        cdef uint32_t idx
        memcpy(outpoint, block.hashes.data + HASH_LEN * tx, HASH_LEN)
        for idx in range(count):
            output = block.outputs.data + OUTPUT_LEN * (first + idx)
            if not output[OUTPUT_FLAGS] & rule:
                continue
            memcpy(outpoint + HASH_LEN, &idx, TXOUT_IDX_LEN)
            entry = self.put(outpoint)
            if entry == NULL:
                return False
            fill_entry(entry, output, tx_num)
            if is_new:
                self.mark(entry, NEW)
                add_record(&self.history.records, output, tx_num)
        return True

    cdef bint spend(self, const uint8_t *outpoint, uint8_t *undo, uint64_t tx_num) noexcept nogil:
        cdef uint64_t slot = self.find_slot(outpoint)
        cdef Entry *entry
        if not self.slots[slot]:
            return False
        entry = &self.entries[self.slots[slot] - 1]
        memcpy(undo, entry.utxo, UNDO_ITEM_LEN)
        add_record(&self.history.records, entry.utxo, tx_num)
        return self.drop(slot)

    cdef bint drop(self, uint64_t slot) noexcept nogil:
        """Remove a UTXO from the table, and note its rows to delete; return false without memory."""
        cdef Entry *entry = &self.entries[self.slots[slot] - 1]
        cdef uint8_t *row
        if entry.mark == WRITTEN:
            if not grow(&self.deletes, DELETE_LEN, 1):
                return False
            row = self.deletes.data + DELETE_LEN * self.deletes.count
            write_keys(row, entry)
            if not self.note_spent(row):
                return False
            self.deletes.count += 1
        self.remove(slot)
        return True

    # flushing

    @property
    def new_utxos(self):
        """UTXOs to write: the frozen ones, or else all new ones."""
        return self.frozen_utxos.count if self.utxos_frozen else self.new_count

    @property
    def delete_count(self):
        """UTXOs on disk that are spent: the frozen ones, or else all."""
        return self.frozen_deletes.count if self.utxos_frozen else self.deletes.count

    @property
    def pending_rows(self):
        """(UTXOs, deletes) that wait for their write, frozen or not."""
        return (self.new_count + self.frozen_utxos.count,
                self.deletes.count + self.frozen_deletes.count)

    @property
    def memsize(self):
        """Bytes of memory that UTXOs and deletes take, frozen or not."""
        return (self.room * sizeof(Entry) + (self.slot_mask + 1) * sizeof(uint32_t)
                + (self.deletes.room + self.frozen_deletes.room) * DELETE_LEN
                + self.frozen_utxos.room * FROZEN_LEN + self.news.room * sizeof(uint32_t)
                + (self.spent_mask + 1) * sizeof(SpentRow))

    def freeze_utxos(self):
        """Freeze UTXOs and deletes for a flush, until :meth:`clear_utxos`.

        The entries count as written from now on.
        """
        cdef bint done
        assert not self.utxos_frozen
        with nogil:
            done = self.freeze_new()
        if not done:
            raise MemoryError
        self.utxos_frozen = True

    cdef inline void freeze_entry(self, uint32_t number) noexcept nogil:
        """Copy an entry in use to the frozen UTXOs, if it is new."""
        cdef Entry *entry = &self.entries[number]
        cdef uint8_t *frozen
        if entry.mark != NEW:
            return
        frozen = self.frozen_utxos.data + FROZEN_LEN * self.frozen_utxos.count
        write_keys(frozen, entry)
        memcpy(frozen + DELETE_LEN, entry.utxo + UTXO_VALUE, VALUE_LEN)
        self.frozen_utxos.count += 1
        entry.mark = WRITTEN

    cdef bint freeze_new(self) noexcept nogil:
        cdef uint64_t n
        cdef uint32_t number
        cdef size_t k
        # Not larger than necessary: it stays for as long as a flush takes.
        self.frozen_utxos.data = <uint8_t *> realloc(NULL, (<size_t> self.new_count + 1) * FROZEN_LEN)
        if self.frozen_utxos.data == NULL:
            return False
        self.frozen_utxos.room = self.new_count + 1
        if self.news_lost:
            for n in range(self.slot_mask + 1):
                if self.slots[n]:
                    self.freeze_entry(self.slots[n] - 1)
        else:
            for n in range(self.news.count):
                number = (<uint32_t *> self.news.data)[n]
                # It may have become free since, and another may have taken it.
                if self.slots[self.find_slot(self.entries[number].outpoint)] == number + 1:
                    self.freeze_entry(number)
        self.news_lost = False
        release(&self.news)
        self.new_count = 0
        self.frozen_deletes = self.deletes
        memset(&self.deletes, 0, sizeof(Array))
        # Rows deleted before are no longer on disk.
        self.spent_stale = False
        memset(self.spent, 0, (self.spent_mask + 1) * sizeof(SpentRow))
        for k in range(self.frozen_deletes.count):
            self.put_spent(self.frozen_deletes.data + DELETE_LEN * k)
        return True

    def put_utxos(self, put):
        """Call ``put(key, value)`` for the rows of every frozen UTXO: ``h``, then ``u``, in order."""
        self.call_for_rows(put, &self.frozen_utxos, FROZEN_LEN)

    def delete_utxos(self, delete):
        """Call ``delete(key)`` for the rows of every frozen delete: ``h``, then ``u``."""
        self.call_for_rows(delete, &self.frozen_deletes, DELETE_LEN)

    cdef int call_for_rows(self, call, Array *frozen, size_t length) except -1:
        """Call with the keys of the rows of frozen items, and with values where they have them."""
        cdef bint has_values = length == FROZEN_LEN
        cdef Array order
        cdef size_t n
        cdef const uint8_t *item
        cdef uint8_t key[UTXO_KEY_LEN]
        memset(&order, 0, sizeof(Array))
        try:
            self.sort_frozen(&order, frozen, length, 0)
            key[0] = OUTPOINT_PREFIX
            for n in range(order.count):
                item = frozen.data + length * ordered(&order, n)
                memcpy(key + 1, item, ROW_ID_LEN)
                row = PyBytes_FromStringAndSize(<char *> key, OUTPOINT_KEY_LEN)
                if has_values:
                    call(row, PyBytes_FromStringAndSize(<char *> item + ROW_ID_LEN, HASHX_LEN))
                else:
                    call(row)
            self.sort_frozen(&order, frozen, length, ROW_ID_LEN)
            key[0] = UTXO_PREFIX
            for n in range(order.count):
                item = frozen.data + length * ordered(&order, n)
                memcpy(key + 1, item + ROW_ID_LEN, HASHX_LEN)
                memcpy(key + 1 + HASHX_LEN, item + TX_HASH_PREFIX_LEN, SUFFIX_LEN)
                row = PyBytes_FromStringAndSize(<char *> key, UTXO_KEY_LEN)
                if has_values:
                    call(row, PyBytes_FromStringAndSize(<char *> item + DELETE_LEN, VALUE_LEN))
                else:
                    call(row)
        finally:
            release(&order)
        return 0

    cdef int sort_frozen(self, Array *order, Array *frozen, size_t length, size_t at) except -1:
        """Sort items by their eleven bytes at ``at``; :func:`ordered` reads the result.

        Items that agree in those are in any order, which costs the engine nothing.
        """
        cdef bint done
        with nogil:
            done = order_by(order, frozen, length, at)
        if not done:
            raise MemoryError
        return 0

    def clear_utxos(self):
        """Free the frozen UTXOs and deletes: they are on disk.

        Runs concurrently with a thread that indexes, so the set of spent rows stays unchanged.
        """
        self.utxos_frozen = False
        self.spent_stale = True
        release(&self.frozen_utxos)
        release(&self.frozen_deletes)

    def evict_written(self, size_t keep_bytes):
        """Drop the oldest written entries, except for about ``keep_bytes`` of them.

        Call it when no flush is in progress, and no provided UTXO waits for its spend.
        """
        cdef bint done
        cdef SpentRow *smallest
        cdef size_t keep = keep_bytes // (sizeof(Entry) + 8)
        assert not self.utxos_frozen
        if not self.deletes.count and self.spent_mask >= 1 << 12:
            smallest = <SpentRow *> calloc(1 << 12, sizeof(SpentRow))
            if smallest == NULL:
                raise MemoryError
            free(self.spent)
            self.spent, self.spent_mask = smallest, (1 << 12) - 1
        if self.utxo_count - self.new_count <= keep and keep:
            return
        with nogil:
            done = self.rebuild(keep)
        if not done:
            raise MemoryError

    cdef bint rebuild(self, size_t keep) noexcept nogil:
        """Rebuild the table, with all new entries and about the ``keep`` youngest written ones."""
        cdef uint64_t ages[AGES]
        cdef uint64_t n, newest, oldest, size, slot, left
        cdef uint32_t count = 0
        cdef Entry *entry
        cdef Entry *entries
        cdef uint32_t *slots
        newest = 1
        for n in range(self.slot_mask + 1):
            if self.slots[n]:
                newest = max(newest, tx_num_of(&self.entries[self.slots[n] - 1]))
        memset(ages, 0, sizeof(ages))
        for n in range(self.slot_mask + 1):
            if self.slots[n]:
                entry = &self.entries[self.slots[n] - 1]
                if entry.mark == WRITTEN:
                    ages[tx_num_of(entry) * (AGES - 1) // newest] += 1
        # The lowest bucket to keep.
        oldest = AGES
        left = keep
        while oldest and ages[oldest - 1] <= left:
            oldest -= 1
            left -= ages[oldest]
        for n in range(oldest, AGES):
            count += <uint32_t> ages[n]
        count += self.new_count
        size = 1 << 12
        while 3 * (<uint64_t> count + 1) > 2 * size:
            size *= 2
        entries = <Entry *> realloc(NULL, (<size_t> count + 1) * sizeof(Entry))
        slots = <uint32_t *> calloc(size, sizeof(uint32_t))
        if entries == NULL or slots == NULL:
            free(entries)
            free(slots)
            return False
        count = 0
        for n in range(self.slot_mask + 1):
            if not self.slots[n]:
                continue
            entry = &self.entries[self.slots[n] - 1]
            if entry.mark == WRITTEN and tx_num_of(entry) * (AGES - 1) // newest < oldest:
                continue
            entries[count] = entry[0]
            count += 1
            slot = self.hash_of(entry.outpoint) & (size - 1)
            while slots[slot]:
                slot = (slot + 1) & (size - 1)
            slots[slot] = count
        free(self.entries)
        free(self.slots)
        self.entries, self.slots, self.slot_mask = entries, slots, size - 1
        self.used = self.utxo_count = count
        self.room = count + 1
        self.freed = 0
        # Entries have other numbers now.
        self.news_lost = self.new_count != 0
        release(&self.news)
        return True

    # UTXOs of recent blocks

    @property
    def written_bytes(self):
        """Bytes that entries take which are on disk."""
        return <size_t> (self.utxo_count - self.new_count) * (sizeof(Entry) + 8)

    def note_committed(self, FastBlock block not None, uint64_t first_tx_num, bint after_genesis,
                       bint any_order):
        """Put the UTXOs of a block that is on disk, and drop those that it spends.

        For an index of its own, which takes consecutive blocks up to the tip, and which then
        :meth:`adopt` takes over.
        """
        cdef uint8_t rule = SPENDABLE_GENESIS if after_genesis else SPENDABLE_LEGACY
        cdef bint done
        with nogil:
            done = self.note_block(block, first_tx_num, rule, any_order)
        if not done:
            raise MemoryError

    cdef bint note_block(self, FastBlock block, uint64_t first_tx_num, uint8_t rule,
                         bint any_order) noexcept nogil:
        cdef TxShape *shapes = <TxShape *> block.shapes.data
        cdef size_t spend = 0
        cdef size_t output = 0
        cdef size_t k
        cdef uint32_t n
        for n in range(block.tx_count):
            if not any_order:
                for k in range(spend, spend + shapes[n].spends):
                    self.drop_known(block.spends.data + OUTPOINT_LEN * k)
                spend += shapes[n].spends
            if not self.put_outputs(block, n, output, shapes[n].outputs,
                                    first_tx_num + n, rule, False):
                return False
            output += shapes[n].outputs
        if any_order:
            for k in range(block.spends.count):
                self.drop_known(block.spends.data + OUTPOINT_LEN * k)
        return True

    cdef void drop_known(self, const uint8_t *outpoint) noexcept nogil:
        cdef uint64_t slot = self.find_slot(outpoint)
        if self.slots[slot]:
            self.remove(slot)

    def adopt(self, FastIndex other not None):
        """Put the UTXOs of another index, which are all on disk, as written ones.

        Both are at the same tip, and nothing here waits for its write.
        """
        cdef uint64_t n
        cdef Entry *entry
        cdef Entry *mine
        cdef bint done = True
        assert not self.new_count and not self.deletes.count and not self.utxos_frozen
        with nogil:
            for n in range(other.slot_mask + 1):
                if not other.slots[n]:
                    continue
                entry = &other.entries[other.slots[n] - 1]
                mine = self.put(entry.outpoint)
                if mine == NULL:
                    done = False
                    break
                memcpy(mine.utxo, entry.utxo, UNDO_ITEM_LEN)
        if not done:
            raise MemoryError
