# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The compiled form of indexing: parse, hash, coins and history of Bitcoin's transaction formats.

Its oracle is the pure-Python form (``electrumx.lib.tx``, ``indexer``, ``utxo_cache`` and
``History.unflushed``): property tests feed both the same blocks and demand the same results, and
for bytes that are no block the same verdict.  ``fast_index`` chooses between them.

What it holds
-------------

*A parsed block* is four flat arrays: tx hashes (32 bytes each), numbers of spends and coins of
each transaction, outpoints spent (36 bytes: tx_hash, txout_idx LE4; generation inputs left out),
and outputs (hashX 11, value LE8, flags 1).  Nothing of it is a Python object.

*The index* holds what is not flushed:

- a hash table from outpoint to coin.  Entries of 64 bytes lie in one growing array, freed ones in
  a list; a second array of 4-byte slots, at most two thirds full, finds them by linear probing.
  The hash is seeded, so that nobody can make transactions that collide.  About 72 bytes a coin,
  against 205 of a Python dictionary of bytes.  An entry is *new*, to be written, or *known*: on
  disk, or in the hands of the flush that is writing it.  Known ones spare a look-up when they are
  spent; :meth:`FastIndex.forget_known` drops the oldest;
- the coins spent that are on disk (24 bytes each), to be deleted there, and a set of their hashes
  that tells whether a row on disk is already spent;
- history as records of 16 bytes, hashX and tx_num BE5, in the order of the chain.

What a flush is to write is *taken* from all that (:meth:`FastIndex.take_coins`,
:meth:`FastIndex.take_history`) into arrays of its own: new coins of 32 bytes, deletes, records.
From then on the flush may sort and write them in one thread while blocks are advanced in another.

Spends that miss the table are looked up on disk before a batch of blocks is advanced
(:meth:`FastIndex.missing`, :meth:`FastIndex.provide`), so that the loop that advances a block
needs neither Python nor the disk and runs without the GIL.  One thread at a time uses an index
(the caller holds the state lock), beside one that writes what was taken; parsing shares nothing
and may run in any thread.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

import os

from electrumx.lib.errors import DeserializeError, SkipTxDeserialize


cdef extern from *:
    """
    /* The one-shot and EVP calls of OpenSSL 3 look the algorithm up at each call, about 300 ns;
       the low-level ones are called deprecated, but do not. */
    #define OPENSSL_SUPPRESS_DEPRECATED 1
    #include <openssl/sha.h>
    """
    ctypedef struct SHA256_CTX:
        pass
    int SHA256_Init(SHA256_CTX *c) nogil
    int SHA256_Update(SHA256_CTX *c, const void *data, size_t len) nogil
    int SHA256_Final(unsigned char *md, SHA256_CTX *c) nogil


cdef enum:
    OUTPOINT_LEN = 36
    COIN_LEN = 24
    HASHX_LEN = 11
    OUTPUT_LEN = 20
    DELETE_LEN = 24
    TAKEN_LEN = 32
    RECORD_LEN = 16
    # flags of an output
    SPENDABLE_LEGACY = 1
    SPENDABLE_GENESIS = 2
    # verdicts of the parser
    OK = 0
    TRUNCATED = 1
    SKIP = 2
    NO_MEMORY = 3
    BAD_FLAG = 4
    # transaction formats
    FORMAT_PLAIN = 0
    FORMAT_SEGWIT = 1
    FORMAT_LITECOIN = 2
    # marks of a coin in the table: to be written, or on disk already
    NEW = 0
    KNOWN = 1
    # of buckets by age
    AGES = 4096
    # records that are sooner sorted by insertion than parted
    FEW_RECORDS = 64

PLAIN, SEGWIT, LITECOIN = FORMAT_PLAIN, FORMAT_SEGWIT, FORMAT_LITECOIN


# -- growing arrays

cdef struct Array:
    uint8_t *data
    size_t count
    size_t room


cdef inline bint grow(Array *array, size_t item_len, size_t more) noexcept nogil:
    """Make room for ``more`` items; false if there is no memory."""
    cdef size_t room
    cdef uint8_t *data
    if array.count + more <= array.room:
        return True
    room = array.room + array.room // 2 + more + 16
    data = <uint8_t *> realloc(array.data, room * item_len)
    if data == NULL:
        return False
    array.data, array.room = data, room
    return True


cdef inline void release(Array *array) noexcept nogil:
    free(array.data)
    array.data, array.count, array.room = NULL, 0, 0


# -- parsing

cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


cdef struct TxShape:
    uint32_t spends
    uint32_t outputs


cdef inline int read_size(Cursor *c, uint64_t *size) noexcept nogil:
    """Read a compact size, minimal or not; it must not exceed the bytes left."""
    cdef uint8_t first
    cdef int extra, n
    if c.at >= c.end:
        return TRUNCATED
    first = c.at[0]
    c.at += 1
    if first < 253:
        size[0] = first
    else:
        extra = 2 if first == 253 else (4 if first == 254 else 8)
        if c.end - c.at < extra:
            return TRUNCATED
        size[0] = 0
        for n in range(extra - 1, -1, -1):
            size[0] = (size[0] << 8) | c.at[n]
        c.at += extra
    if size[0] > <uint64_t> (c.end - c.at):
        return TRUNCATED
    return OK


cdef inline uint8_t spendable(const uint8_t *script, uint64_t length) noexcept nogil:
    """Return by which rules an output with this script can be spent."""
    if length >= 1 and script[0] == 0x6a:
        return SPENDABLE_GENESIS
    if length >= 2 and script[0] == 0 and script[1] == 0x6a:
        return 0
    return SPENDABLE_LEGACY | SPENDABLE_GENESIS


cdef inline bint is_generation(const uint8_t *outpoint) noexcept nogil:
    cdef int n
    for n in range(32):
        if outpoint[n]:
            return False
    return outpoint[32] & outpoint[33] & outpoint[34] & outpoint[35] == 0xff


cdef class FastBlock:
    """A parsed block; made by :func:`parse_block`."""

    cdef readonly bytes raw
    cdef readonly bytes header
    cdef readonly uint32_t tx_count
    cdef Array hashes
    cdef Array shapes
    cdef Array spends
    cdef Array outputs

    def __cinit__(self):
        memset(&self.hashes, 0, sizeof(Array))
        memset(&self.shapes, 0, sizeof(Array))
        memset(&self.spends, 0, sizeof(Array))
        memset(&self.outputs, 0, sizeof(Array))

    def __dealloc__(self):
        release(&self.hashes)
        release(&self.shapes)
        release(&self.spends)
        release(&self.outputs)

    @property
    def tx_hashes(self):
        """The hashes of the transactions, 32 bytes each, joined."""
        return PyBytes_FromStringAndSize(<char *> self.hashes.data, self.hashes.count * 32)

    @property
    def spent_outpoints(self):
        """The outpoints spent, 36 bytes each, joined; those of generation inputs left out."""
        return PyBytes_FromStringAndSize(
            <char *> self.spends.data, self.spends.count * OUTPOINT_LEN)

    @property
    def memsize(self):
        """Bytes held beside the raw block."""
        return (self.hashes.room * 32 + self.shapes.room * sizeof(TxShape)
                + self.spends.room * OUTPOINT_LEN + self.outputs.room * OUTPUT_LEN)

    def transactions(self):
        """Return [(spends, outputs)] for tests: [(hash, idx)], [(hashX, value, flags)]."""
        result = []
        cdef TxShape *shapes = <TxShape *> self.shapes.data
        cdef const uint8_t *spend = self.spends.data
        cdef const uint8_t *output = self.outputs.data
        for n in range(self.tx_count):
            spends, outputs = [], []
            for _ in range(shapes[n].spends):
                raw = PyBytes_FromStringAndSize(<char *> spend, OUTPOINT_LEN)
                spends.append((raw[:32], int.from_bytes(raw[32:], "little")))
                spend += OUTPOINT_LEN
            for _ in range(shapes[n].outputs):
                raw = PyBytes_FromStringAndSize(<char *> output, OUTPUT_LEN)
                outputs.append((raw[:11], int.from_bytes(raw[11:19], "little"), raw[19]))
                output += OUTPUT_LEN
            result.append((spends, outputs))
        return result

    cdef int parse(self, Cursor *c, int tx_format) noexcept nogil:
        cdef uint64_t count, n
        cdef int verdict = read_size(c, &count)
        if verdict != OK:
            return verdict
        for n in range(count):
            verdict = self.parse_tx(c, tx_format)
            if verdict != OK:
                return verdict
        self.tx_count = <uint32_t> count
        return OK

    cdef int parse_tx(self, Cursor *c, int tx_format) noexcept nogil:
        """Parse and hash one transaction."""
        cdef const uint8_t *start = c.at
        cdef const uint8_t *body = NULL
        cdef const uint8_t *body_end = NULL
        cdef uint64_t inputs
        cdef uint8_t flag = 0
        cdef bint has_witness = False
        cdef bint has_marker = False
        cdef int verdict
        cdef TxShape *shape
        cdef SHA256_CTX ctx
        cdef uint8_t digest[32]

        if c.end - c.at < 5:
            return TRUNCATED
        has_marker = tx_format != FORMAT_PLAIN and c.at[4] == 0
        c.at += 4
        if has_marker:
            if c.end - c.at < 2:
                return TRUNCATED
            flag = c.at[1]
            c.at += 2
            has_witness = True
            if tx_format == FORMAT_LITECOIN:
                if flag == 0:
                    return SKIP
                if flag & ~9:
                    return BAD_FLAG
                has_witness = (flag & 1) != 0
        body = c.at
        if not grow(&self.shapes, sizeof(TxShape), 1):
            return NO_MEMORY
        shape = <TxShape *> self.shapes.data + self.shapes.count
        shape.spends = shape.outputs = 0
        verdict = self.parse_inputs(c, shape, &inputs)
        if verdict == OK:
            verdict = self.parse_outputs(c, shape)
        if verdict != OK:
            return verdict
        body_end = c.at
        if has_witness:
            verdict = skip_witness(c, inputs)
            if verdict != OK:
                return verdict
        if has_marker and tx_format == FORMAT_LITECOIN and flag & 8:
            if c.at >= c.end:
                return TRUNCATED
            if c.at[0] != 0:
                return SKIP
            c.at += 1
        if c.end - c.at < 4:
            return TRUNCATED
        c.at += 4
        self.shapes.count += 1

        if not grow(&self.hashes, 32, 1):
            return NO_MEMORY
        SHA256_Init(&ctx)
        if has_marker:
            SHA256_Update(&ctx, start, 4)
            SHA256_Update(&ctx, body, body_end - body)
            SHA256_Update(&ctx, c.at - 4, 4)
        else:
            SHA256_Update(&ctx, start, c.at - start)
        SHA256_Final(digest, &ctx)
        SHA256_Init(&ctx)
        SHA256_Update(&ctx, digest, 32)
        SHA256_Final(self.hashes.data + 32 * self.hashes.count, &ctx)
        self.hashes.count += 1
        return OK

    cdef int parse_inputs(self, Cursor *c, TxShape *shape, uint64_t *count) noexcept nogil:
        cdef uint64_t n, length
        cdef const uint8_t *outpoint
        cdef int verdict = read_size(c, count)
        if verdict != OK:
            return verdict
        for n in range(count[0]):
            if c.end - c.at < OUTPOINT_LEN:
                return TRUNCATED
            outpoint = c.at
            c.at += OUTPOINT_LEN
            verdict = read_size(c, &length)
            if verdict != OK:
                return verdict
            c.at += length
            if c.end - c.at < 4:
                return TRUNCATED
            c.at += 4
            if is_generation(outpoint):
                continue
            if not grow(&self.spends, OUTPOINT_LEN, 1):
                return NO_MEMORY
            memcpy(self.spends.data + OUTPOINT_LEN * self.spends.count, outpoint, OUTPOINT_LEN)
            self.spends.count += 1
            shape.spends += 1
        return OK

    cdef int parse_outputs(self, Cursor *c, TxShape *shape) noexcept nogil:
        cdef uint64_t n, count, length
        cdef uint8_t *output
        cdef SHA256_CTX ctx
        cdef uint8_t digest[32]
        cdef int verdict = read_size(c, &count)
        if verdict != OK:
            return verdict
        for n in range(count):
            if c.end - c.at < 8:
                return TRUNCATED
            if not grow(&self.outputs, OUTPUT_LEN, 1):
                return NO_MEMORY
            output = self.outputs.data + OUTPUT_LEN * self.outputs.count
            memcpy(output + HASHX_LEN, c.at, 8)
            c.at += 8
            verdict = read_size(c, &length)
            if verdict != OK:
                return verdict
            output[19] = spendable(c.at, length)
            if output[19]:
                SHA256_Init(&ctx)
                SHA256_Update(&ctx, c.at, length)
                SHA256_Final(digest, &ctx)
                memcpy(output, digest, HASHX_LEN)
            else:
                memset(output, 0, HASHX_LEN)
            c.at += length
            self.outputs.count += 1
            shape.outputs += 1
        return OK


cdef inline int skip_witness(Cursor *c, uint64_t inputs) noexcept nogil:
    cdef uint64_t n, m, items, length
    cdef int verdict
    for n in range(inputs):
        verdict = read_size(c, &items)
        if verdict != OK:
            return verdict
        for m in range(items):
            verdict = read_size(c, &length)
            if verdict != OK:
                return verdict
            c.at += length
    return OK


def parse_block(bytes raw not None, Py_ssize_t header_len, int tx_format):
    """Parse a raw block whose header has ``header_len`` bytes.

    Raise DeserializeError where the pure form does.
    """
    cdef FastBlock block = FastBlock.__new__(FastBlock)
    cdef Cursor c
    cdef int verdict
    if PyBytes_GET_SIZE(raw) < header_len:
        raise DeserializeError(f"a block of {len(raw):,d} bytes is shorter than its header")
    block.raw = raw
    block.header = raw[:header_len]
    c.at = <const uint8_t *> PyBytes_AS_STRING(raw) + header_len
    c.end = <const uint8_t *> PyBytes_AS_STRING(raw) + PyBytes_GET_SIZE(raw)
    with nogil:
        verdict = block.parse(&c, tx_format)
    if verdict == OK:
        return block
    if verdict == NO_MEMORY:
        raise MemoryError
    if verdict == SKIP:
        raise SkipTxDeserialize("a transaction within the extension block")
    if verdict == BAD_FLAG:
        raise DeserializeError("a transaction flag is unknown")
    raise DeserializeError("truncated within the transactions of a block")


# -- unconfirmed transactions

def parse_unconfirmed(bytes raw not None, int tx_format):
    """Return what the mempool keeps of a transaction: (prevouts, outputs, virtual size).

    Prevouts are (tx_hash, txout_idx), without generation inputs; outputs are (hashX, value) of all
    of them, unspendable ones, too.  None if it cannot be parsed: the pure form then says why.
    """
    cdef const uint8_t *start = <const uint8_t *> PyBytes_AS_STRING(raw)
    cdef const uint8_t *body
    cdef Cursor c
    cdef uint64_t inputs, count, length, n
    cdef uint8_t flag = 0
    cdef bint has_marker
    cdef bint has_witness
    cdef size_t stripped, total
    cdef SHA256_CTX ctx
    cdef uint8_t digest[32]
    cdef list prevouts = []
    cdef list outputs = []

    c.at, c.end = start, start + PyBytes_GET_SIZE(raw)
    if c.end - c.at < 6:
        return None
    has_marker = tx_format != FORMAT_PLAIN and c.at[4] == 0
    has_witness = has_marker
    c.at += 4
    if has_marker:
        flag = c.at[1]
        c.at += 2
        if tx_format == FORMAT_LITECOIN:
            if flag == 0 or flag & ~9:
                return None
            has_witness = (flag & 1) != 0
    body = c.at
    if read_size(&c, &inputs) != OK:
        return None
    for n in range(inputs):
        if c.end - c.at < OUTPOINT_LEN:
            return None
        if not is_generation(c.at):
            prevouts.append((
                PyBytes_FromStringAndSize(<const char *> c.at, 32),
                <uint64_t> c.at[32] | <uint64_t> c.at[33] << 8 | <uint64_t> c.at[34] << 16
                | <uint64_t> c.at[35] << 24,
            ))
        c.at += OUTPOINT_LEN
        if read_size(&c, &length) != OK:
            return None
        c.at += length
        if c.end - c.at < 4:
            return None
        c.at += 4
    if read_size(&c, &count) != OK:
        return None
    for n in range(count):
        if c.end - c.at < 8:
            return None
        value = <int64_t> load8(c.at)
        c.at += 8
        if read_size(&c, &length) != OK:
            return None
        SHA256_Init(&ctx)
        SHA256_Update(&ctx, c.at, length)
        SHA256_Final(digest, &ctx)
        c.at += length
        outputs.append((PyBytes_FromStringAndSize(<const char *> digest, HASHX_LEN), value))
    # Version and locktime belong to it.
    stripped = 8 + (c.at - body)
    if has_witness and skip_witness(&c, inputs) != OK:
        return None
    if flag & 8 and tx_format == FORMAT_LITECOIN:
        if c.at >= c.end or c.at[0] != 0:
            return None
        c.at += 1
    if c.end - c.at < 4:
        return None
    total = c.at + 4 - start
    return tuple(prevouts), tuple(outputs), (3 * stripped + total + 3) // 4


# -- the index

cdef struct Entry:
    uint8_t outpoint[36]
    uint8_t coin[24]
    # NEW or KNOWN; of a freed entry, the number of the next freed one
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


cdef inline uint64_t load8_be(const uint8_t *p) noexcept nogil:
    return (<uint64_t> p[0] << 56 | <uint64_t> p[1] << 48 | <uint64_t> p[2] << 40
            | <uint64_t> p[3] << 32 | <uint64_t> p[4] << 24 | <uint64_t> p[5] << 16
            | <uint64_t> p[6] << 8 | <uint64_t> p[7])


cdef void insert_in_order(uint8_t *data, size_t count) noexcept nogil:
    """Sort a few records by insertion."""
    cdef uint8_t record[RECORD_LEN]
    cdef uint64_t high, low, other
    cdef size_t n, at
    for n in range(1, count):
        high = load8_be(data + RECORD_LEN * n)
        low = load8_be(data + RECORD_LEN * n + 8)
        at = n
        while at:
            other = load8_be(data + RECORD_LEN * (at - 1))
            if other < high or (
                    other == high and load8_be(data + RECORD_LEN * (at - 1) + 8) <= low):
                break
            at -= 1
        if at < n:
            memcpy(record, data + RECORD_LEN * n, RECORD_LEN)
            memmove(data + RECORD_LEN * (at + 1), data + RECORD_LEN * at, RECORD_LEN * (n - at))
            memcpy(data + RECORD_LEN * at, record, RECORD_LEN)


cdef void sort_from(uint8_t *data, size_t count, int at) noexcept nogil:
    """Sort records that agree in all bytes before ``at``, in their place.

    They are parted by one byte, and the parts by the next: however alike the hashes of scripts are
    made, there are no more passes than bytes.
    """
    cdef size_t ends[256]
    cdef size_t places[256]
    cdef uint8_t held[RECORD_LEN]
    cdef uint8_t other[RECORD_LEN]
    cdef size_t n, place
    cdef int digit
    if count <= FEW_RECORDS:
        insert_in_order(data, count)
        return
    memset(ends, 0, sizeof(ends))
    for n in range(count):
        ends[data[RECORD_LEN * n + at]] += 1
    place = 0
    for digit in range(256):
        places[digit] = place
        place += ends[digit]
        ends[digit] = place
    # Each record that is out of place is carried to where it belongs, the one there further on,
    # until the hole is filled.
    for digit in range(256):
        while places[digit] < ends[digit]:
            memcpy(held, data + RECORD_LEN * places[digit], RECORD_LEN)
            while held[at] != digit:
                place = places[held[at]]
                places[held[at]] += 1
                memcpy(other, data + RECORD_LEN * place, RECORD_LEN)
                memcpy(data + RECORD_LEN * place, held, RECORD_LEN)
                memcpy(held, other, RECORD_LEN)
            memcpy(data + RECORD_LEN * places[digit], held, RECORD_LEN)
            places[digit] += 1
    if at + 1 == RECORD_LEN:
        return
    place = 0
    for digit in range(256):
        if ends[digit] - place > 1:
            sort_from(data + RECORD_LEN * place, ends[digit] - place, at + 1)
        place = ends[digit]


cdef inline void sort_records(Array *records) noexcept nogil:
    """Sort history by hashX and then tx_num."""
    sort_from(records.data, records.count, 0)


cdef inline uint64_t tx_num_of(Entry *entry) noexcept nogil:
    cdef uint64_t tx_num = 0
    memcpy(&tx_num, entry.coin + HASHX_LEN, 5)
    return tx_num


cdef bint order_by(Array *order, Array *items, size_t length, size_t at) noexcept nogil:
    """List the numbers of items in the order of their eleven bytes at ``at``."""
    cdef size_t n
    cdef uint8_t *record
    order.count = 0
    if not grow(order, RECORD_LEN, items.count):
        return False
    for n in range(items.count):
        record = order.data + RECORD_LEN * n
        memcpy(record, items.data + length * n + at, HASHX_LEN)
        memset(record + HASHX_LEN, 0, 1)
        memcpy(record + 12, &n, 4)
    order.count = items.count
    sort_records(order)
    return True


cdef inline size_t ordered(Array *order, size_t n) noexcept nogil:
    """Return the number of the ``n``-th item."""
    cdef uint32_t number
    memcpy(&number, order.data + RECORD_LEN * n + 12, 4)
    return number


cdef bint has_row(Array *deletes, const uint8_t *row) noexcept nogil:
    cdef size_t n
    for n in range(deletes.count):
        if memcmp(deletes.data + DELETE_LEN * n, row, 13) == 0:
            return True
    return False


cdef class FastIndex:
    """Coins and history not yet flushed."""

    cdef Entry *entries
    # entries used or freed, and room for
    cdef uint32_t used
    cdef uint32_t room
    # the first freed entry plus 1, coins alive, and those of them that are new
    cdef uint32_t freed
    cdef readonly uint32_t coin_count
    cdef uint32_t new_count
    # entry number plus 1 by hash; 0 is free
    cdef uint32_t *slots
    cdef uint64_t slot_mask
    cdef uint64_t seed
    cdef Array deletes
    # hashes of rows on disk that are spent; 0 is free
    cdef uint64_t *spent
    cdef uint64_t spent_mask
    cdef Array records
    # records of the history that were touched since last asked
    cdef size_t touched_from
    # what the flush that is under way has taken, and records that it has written
    cdef readonly bint coins_taken
    cdef readonly bint history_taken
    cdef Array taken_coins
    cdef Array taken_deletes
    cdef Array taken_records
    cdef size_t written

    def __cinit__(self):
        self.entries = NULL
        self.used = self.room = self.freed = self.coin_count = self.new_count = 0
        self.slots, self.spent = NULL, NULL
        self.coins_taken = self.history_taken = False
        memset(&self.deletes, 0, sizeof(Array))
        memset(&self.records, 0, sizeof(Array))
        memset(&self.taken_coins, 0, sizeof(Array))
        memset(&self.taken_deletes, 0, sizeof(Array))
        memset(&self.taken_records, 0, sizeof(Array))
        self.touched_from = self.written = 0
        self.start_tables()
        self.seed = int.from_bytes(os.urandom(8), "little")

    cdef int start_tables(self) except -1:
        """Allocate the smallest tables, empty."""
        self.slot_mask = self.spent_mask = (1 << 12) - 1
        self.slots = <uint32_t *> calloc(self.slot_mask + 1, sizeof(uint32_t))
        self.spent = <uint64_t *> calloc(self.spent_mask + 1, sizeof(uint64_t))
        if self.slots == NULL or self.spent == NULL:
            raise MemoryError
        return 0

    def __dealloc__(self):
        free(self.entries)
        free(self.slots)
        free(self.spent)
        release(&self.deletes)
        release(&self.records)
        release(&self.taken_coins)
        release(&self.taken_deletes)
        release(&self.taken_records)

    # the table

    cdef inline uint64_t hash_of(self, const uint8_t *outpoint) noexcept nogil:
        cdef uint32_t idx
        memcpy(&idx, outpoint + 32, 4)
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
        """Make room for one more entry; false if there is no memory."""
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
        if 3 * (<uint64_t> self.coin_count + 1) > 2 * (self.slot_mask + 1):
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
        """Return the entry of an outpoint, a new one if there is none; NULL without memory."""
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
        entry.mark = KNOWN
        self.slots[slot] = number
        self.coin_count += 1
        return entry

    cdef inline void mark(self, Entry *entry, uint32_t mark) noexcept nogil:
        """Change the mark of an entry that is alive."""
        if entry.mark == NEW:
            self.new_count -= 1
        if mark == NEW:
            self.new_count += 1
        entry.mark = mark

    cdef void remove(self, uint64_t slot) noexcept nogil:
        """Free an entry, and close the gap that its slot leaves in the run of probes."""
        cdef uint64_t hole = slot
        cdef uint64_t probe = slot
        cdef uint64_t home
        cdef uint32_t number = self.slots[slot]
        self.mark(&self.entries[number - 1], KNOWN)
        self.entries[number - 1].mark = self.freed
        self.freed = number
        self.coin_count -= 1
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

    cdef inline uint64_t spent_hash(self, const uint8_t *row) noexcept nogil:
        """Hash tx_hash[:4], txout_idx LE4, tx_num LE5; never 0."""
        cdef uint64_t tail = 0
        memcpy(&tail, row + 8, 5)
        return mix(load8(row) ^ self.seed ^ mix(tail)) | 1

    cdef bint note_spent(self, const uint8_t *row) noexcept nogil:
        cdef uint64_t *bigger
        cdef uint64_t size, n, slot, value
        if 2 * (self.deletes.count + self.taken_deletes.count + 1) > self.spent_mask:
            size = 2 * (self.spent_mask + 1)
            bigger = <uint64_t *> calloc(size, sizeof(uint64_t))
            if bigger == NULL:
                return False
            for n in range(self.spent_mask + 1):
                value = self.spent[n]
                if value:
                    slot = value >> 1 & (size - 1)
                    while bigger[slot]:
                        slot = (slot + 1) & (size - 1)
                    bigger[slot] = value
            free(self.spent)
            self.spent, self.spent_mask = bigger, size - 1
        self.put_spent(row)
        return True

    cdef void put_spent(self, const uint8_t *row) noexcept nogil:
        """Note a row; there is room."""
        cdef uint64_t value = self.spent_hash(row)
        cdef uint64_t slot = value >> 1 & self.spent_mask
        while self.spent[slot]:
            slot = (slot + 1) & self.spent_mask
        self.spent[slot] = value

    def __contains__(self, bytes key not None):
        """Tell whether the ``h`` row with this key, 14 bytes, is spent but still on disk."""
        cdef const uint8_t *row = <const uint8_t *> PyBytes_AS_STRING(key) + 1
        cdef uint64_t value, slot
        if PyBytes_GET_SIZE(key) != 14:
            return False
        value = self.spent_hash(row)
        slot = value >> 1 & self.spent_mask
        while self.spent[slot]:
            if self.spent[slot] == value:
                # Equal hashes are nearly always equal rows; the truth is in the lists.
                return has_row(&self.deletes, row) or has_row(&self.taken_deletes, row)
            slot = (slot + 1) & self.spent_mask
        return False

    # advancing

    def missing(self, list blocks not None):
        """Return the outpoints that these blocks spend and that neither they nor the table have.

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
            # Most of them the blocks make themselves.
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
        cdef uint8_t outpoint[36]
        cdef uint32_t n
        memset(outpoint + 32, 0xff, 4)
        for n in range(block.tx_count):
            memcpy(outpoint, block.hashes.data + 32 * n, 32)
            if self.put(outpoint) == NULL:
                return False
        return True

    cdef bint drop_made(self, Array *found) noexcept nogil:
        """Keep those outpoints in ``found``, once each, whose transaction was not noted here."""
        cdef uint8_t outpoint[36]
        cdef uint8_t *spend
        cdef size_t k
        cdef size_t kept = 0
        memset(outpoint + 32, 0xff, 4)
        for k in range(found.count):
            spend = found.data + OUTPOINT_LEN * k
            memcpy(outpoint, spend, 32)
            if self.slots[self.find_slot(outpoint)] or self.slots[self.find_slot(spend)]:
                continue
            if self.put(spend) == NULL:
                return False
            memmove(found.data + OUTPOINT_LEN * kept, spend, OUTPOINT_LEN)
            kept += 1
        found.count = kept
        return True

    def provide(self, bytes outpoint not None, bytes coin not None):
        """Put a coin that is on disk into the table; it is about to be spent."""
        cdef Entry *entry
        assert len(outpoint) == OUTPOINT_LEN and len(coin) == COIN_LEN
        entry = self.put(<const uint8_t *> PyBytes_AS_STRING(outpoint))
        if entry == NULL:
            raise MemoryError
        memcpy(entry.coin, PyBytes_AS_STRING(coin), COIN_LEN)
        self.mark(entry, KNOWN)

    def advance(self, FastBlock block not None, uint64_t first_tx_num, bint after_genesis,
                bint any_order):
        """Index a block; return its undo items, joined.

        ``after_genesis`` chooses the rule of what can be spent.  Raise KeyError with the outpoint
        if one that is spent does not exist; the index is then useless.
        """
        cdef bytes undo = PyBytes_FromStringAndSize(NULL, block.spends.count * COIN_LEN)
        cdef uint8_t *items = <uint8_t *> PyBytes_AS_STRING(undo)
        cdef int64_t verdict
        with nogil:
            verdict = self.advance_block(block, first_tx_num, after_genesis, any_order, items)
        if verdict == -2:
            raise MemoryError
        if verdict >= 0:
            raise KeyError(PyBytes_FromStringAndSize(
                <char *> block.spends.data + OUTPOINT_LEN * verdict, OUTPOINT_LEN))
        return undo

    cdef int64_t advance_block(self, FastBlock block, uint64_t first_tx_num, bint after_genesis,
                               bint any_order, uint8_t *undo) noexcept nogil:
        """Return -1, or -2 if there is no memory, or the number of the spend that failed."""
        cdef TxShape *shapes = <TxShape *> block.shapes.data
        cdef size_t spend = 0
        cdef size_t output = 0
        cdef uint32_t n, m
        cdef uint8_t rule = SPENDABLE_GENESIS if after_genesis else SPENDABLE_LEGACY
        if not grow(&self.records, RECORD_LEN, block.spends.count + block.outputs.count):
            return -2
        if any_order:
            for n in range(block.tx_count):
                if not self.add_outputs(block, n, output, shapes[n].outputs,
                                        first_tx_num + n, rule):
                    return -2
                output += shapes[n].outputs
        for n in range(block.tx_count):
            for m in range(shapes[n].spends):
                if not self.spend(block.spends.data + OUTPOINT_LEN * spend,
                                  undo + COIN_LEN * spend, first_tx_num + n):
                    return spend
                spend += 1
            if not any_order:
                if not self.add_outputs(block, n, output, shapes[n].outputs,
                                        first_tx_num + n, rule):
                    return -2
                output += shapes[n].outputs
        return -1

    cdef inline void record(self, const uint8_t *hashX, uint64_t tx_num) noexcept nogil:
        """Note a transaction in a script's history; room was made."""
        cdef uint8_t *at = self.records.data + RECORD_LEN * self.records.count
        cdef int n
        memcpy(at, hashX, HASHX_LEN)
        for n in range(5):
            at[HASHX_LEN + n] = <uint8_t> (tx_num >> (8 * (4 - n)))
        self.records.count += 1

    cdef bint add_outputs(self, FastBlock block, uint32_t tx, size_t first, uint32_t count,
                          uint64_t tx_num, uint8_t rule) noexcept nogil:
        cdef uint8_t outpoint[36]
        cdef const uint8_t *output
        cdef Entry *entry
        cdef uint32_t idx
        memcpy(outpoint, block.hashes.data + 32 * tx, 32)
        for idx in range(count):
            output = block.outputs.data + OUTPUT_LEN * (first + idx)
            if not output[19] & rule:
                continue
            memcpy(outpoint + 32, &idx, 4)
            entry = self.put(outpoint)
            if entry == NULL:
                return False
            self.mark(entry, NEW)
            memcpy(entry.coin, output, HASHX_LEN)
            memcpy(entry.coin + HASHX_LEN, &tx_num, 5)
            memcpy(entry.coin + 16, output + HASHX_LEN, 8)
            self.record(output, tx_num)
        return True

    cdef bint spend(self, const uint8_t *outpoint, uint8_t *undo, uint64_t tx_num) noexcept nogil:
        cdef uint64_t slot = self.find_slot(outpoint)
        cdef Entry *entry
        cdef uint8_t *row
        if not self.slots[slot]:
            return False
        entry = &self.entries[self.slots[slot] - 1]
        memcpy(undo, entry.coin, COIN_LEN)
        self.record(entry.coin, tx_num)
        if entry.mark == KNOWN:
            if not grow(&self.deletes, DELETE_LEN, 1):
                return False
            # tx_hash[:4], txout_idx, tx_num, hashX
            row = self.deletes.data + DELETE_LEN * self.deletes.count
            memcpy(row, outpoint, 4)
            memcpy(row + 4, outpoint + 32, 4)
            memcpy(row + 8, entry.coin + HASHX_LEN, 5)
            memcpy(row + 13, entry.coin, HASHX_LEN)
            if not self.note_spent(row):
                return False
            self.deletes.count += 1
        self.remove(slot)
        return True

    # what is to be flushed

    @property
    def new_coins(self):
        """Coins to be written: those taken, or else all new ones."""
        return self.taken_coins.count if self.coins_taken else self.new_count

    @property
    def delete_count(self):
        """Coins on disk that are spent: those taken, or else all."""
        return self.taken_deletes.count if self.coins_taken else self.deletes.count

    @property
    def pending_rows(self):
        """(coins, deletes) that wait to be written, taken or not."""
        return (self.new_count + self.taken_coins.count,
                self.deletes.count + self.taken_deletes.count)

    @property
    def record_count(self):
        """Entries of history, duplicates within a transaction included."""
        return self.records.count + self.taken_records.count

    @property
    def coins_memsize(self):
        """Bytes taken by coins and deletes."""
        return (self.room * sizeof(Entry) + (self.slot_mask + 1) * sizeof(uint32_t)
                + (self.deletes.room + self.taken_deletes.room) * DELETE_LEN
                + self.taken_coins.room * TAKEN_LEN + (self.spent_mask + 1) * sizeof(uint64_t))

    @property
    def history_memsize(self):
        """Bytes taken by history; room for more is not in memory yet."""
        return (self.records.count + self.taken_records.count) * RECORD_LEN

    def take_coins(self):
        """Take coins and deletes for a flush, until :meth:`clear_coins`.

        The coins become known ones.
        """
        cdef bint done
        assert not self.coins_taken
        with nogil:
            done = self.take_new_coins()
        if not done:
            raise MemoryError
        self.coins_taken = True

    cdef bint take_new_coins(self) noexcept nogil:
        cdef uint64_t n
        cdef Entry *entry
        cdef uint8_t *taken
        cdef size_t k
        # No more than what is needed: they lie here for as long as a flush takes.
        self.taken_coins.data = <uint8_t *> realloc(NULL, (<size_t> self.new_count + 1) * TAKEN_LEN)
        if self.taken_coins.data == NULL:
            return False
        self.taken_coins.room = self.new_count + 1
        for n in range(self.slot_mask + 1):
            if not self.slots[n]:
                continue
            entry = &self.entries[self.slots[n] - 1]
            if entry.mark != NEW:
                continue
            # tx_hash[:4], txout_idx, tx_num, hashX, value
            taken = self.taken_coins.data + TAKEN_LEN * self.taken_coins.count
            memcpy(taken, entry.outpoint, 4)
            memcpy(taken + 4, entry.outpoint + 32, 4)
            memcpy(taken + 8, entry.coin + HASHX_LEN, 5)
            memcpy(taken + 13, entry.coin, HASHX_LEN)
            memcpy(taken + 24, entry.coin + 16, 8)
            self.taken_coins.count += 1
            entry.mark = KNOWN
        self.new_count = 0
        self.taken_deletes = self.deletes
        memset(&self.deletes, 0, sizeof(Array))
        # Rows that are on disk no longer need not be told apart from those that are.
        memset(self.spent, 0, (self.spent_mask + 1) * sizeof(uint64_t))
        for k in range(self.taken_deletes.count):
            self.put_spent(self.taken_deletes.data + DELETE_LEN * k)
        return True

    def put_coins(self, put):
        """Call ``put(key, value)`` for the rows of every coin taken: ``h``, then ``u``, in order."""
        cdef Array order
        cdef size_t n
        cdef const uint8_t *coin
        cdef uint8_t key[21]
        memset(&order, 0, sizeof(Array))
        try:
            self.sort_taken(&order, &self.taken_coins, TAKEN_LEN, 0)
            key[0] = 0x68
            for n in range(order.count):
                coin = self.taken_coins.data + TAKEN_LEN * ordered(&order, n)
                memcpy(key + 1, coin, 13)
                put(PyBytes_FromStringAndSize(<char *> key, 14),
                    PyBytes_FromStringAndSize(<char *> coin + 13, HASHX_LEN))
            self.sort_taken(&order, &self.taken_coins, TAKEN_LEN, 13)
            key[0] = 0x75
            for n in range(order.count):
                coin = self.taken_coins.data + TAKEN_LEN * ordered(&order, n)
                memcpy(key + 1, coin + 13, HASHX_LEN)
                memcpy(key + 12, coin + 4, 9)
                put(PyBytes_FromStringAndSize(<char *> key, 21),
                    PyBytes_FromStringAndSize(<char *> coin + 24, 8))
        finally:
            release(&order)

    def delete_coins(self, delete):
        """Call ``delete(key)`` for the rows of every coin taken that is spent: ``h``, then ``u``."""
        cdef Array order
        cdef size_t n
        cdef const uint8_t *row
        cdef uint8_t key[21]
        memset(&order, 0, sizeof(Array))
        try:
            self.sort_taken(&order, &self.taken_deletes, DELETE_LEN, 0)
            key[0] = 0x68
            for n in range(order.count):
                row = self.taken_deletes.data + DELETE_LEN * ordered(&order, n)
                memcpy(key + 1, row, 13)
                delete(PyBytes_FromStringAndSize(<char *> key, 14))
            self.sort_taken(&order, &self.taken_deletes, DELETE_LEN, 13)
            key[0] = 0x75
            for n in range(order.count):
                row = self.taken_deletes.data + DELETE_LEN * ordered(&order, n)
                memcpy(key + 1, row + 13, HASHX_LEN)
                memcpy(key + 12, row + 4, 9)
                delete(PyBytes_FromStringAndSize(<char *> key, 21))
        finally:
            release(&order)

    cdef int sort_taken(self, Array *order, Array *taken, size_t length, size_t at) except -1:
        """Make a list of items, to be read with :func:`ordered`, by their eleven bytes at ``at``.

        Items that agree in those come in any order, which costs the engine nothing.
        """
        cdef bint done
        with nogil:
            done = order_by(order, taken, length, at)
        if not done:
            raise MemoryError
        return 0

    def clear_coins(self):
        """Forget what was taken of coins and deletes: it is on disk."""
        self.coins_taken = False
        release(&self.taken_coins)
        release(&self.taken_deletes)

    def forget_known(self, size_t keep_bytes):
        """Drop the oldest of the coins that are on disk, but for about ``keep_bytes`` of them.

        Call it when no flush is under way, and no coin was provided that is still to be spent.
        """
        cdef bint done
        cdef size_t keep = keep_bytes // (sizeof(Entry) + 8)
        assert not self.coins_taken
        if not self.deletes.count and self.spent_mask >= 1 << 12:
            free(self.spent)
            self.spent_mask = (1 << 12) - 1
            self.spent = <uint64_t *> calloc(self.spent_mask + 1, sizeof(uint64_t))
            if self.spent == NULL:
                raise MemoryError
        if self.coin_count - self.new_count <= keep and keep:
            return
        with nogil:
            done = self.rebuild(keep)
        if not done:
            raise MemoryError

    cdef bint rebuild(self, size_t keep) noexcept nogil:
        """Make the table anew, with all new coins and the ``keep`` youngest known ones, about."""
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
                if entry.mark == KNOWN:
                    ages[tx_num_of(entry) * (AGES - 1) // newest] += 1
        # The lowest bucket that is kept.
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
            if entry.mark == KNOWN and tx_num_of(entry) * (AGES - 1) // newest < oldest:
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
        self.used = self.coin_count = count
        self.room = count + 1
        self.freed = 0
        return True

    def new_records(self):
        """Return the history recorded since this was last called, as ``packed`` has records."""
        cdef Array found
        cdef bint done
        memset(&found, 0, sizeof(Array))
        try:
            with nogil:
                done = self.copy_new(&found)
            if not done:
                raise MemoryError
            result = PyBytes_FromStringAndSize(<char *> found.data, found.count * RECORD_LEN)
        finally:
            release(&found)
        self.touched_from = self.records.count
        return result

    cdef bint copy_new(self, Array *found) noexcept nogil:
        """Copy what was recorded, in order, and each once; false if there is no memory."""
        cdef size_t count = self.records.count - self.touched_from
        cdef size_t n
        cdef uint8_t *last
        if not grow(found, RECORD_LEN, count + 1):
            return False
        if not count:
            return True
        memcpy(found.data, self.records.data + RECORD_LEN * self.touched_from, RECORD_LEN * count)
        found.count = count
        sort_records(found)
        last = found.data
        for n in range(1, count):
            if memcmp(last, found.data + RECORD_LEN * n, RECORD_LEN) != 0:
                last += RECORD_LEN
                memmove(last, found.data + RECORD_LEN * n, RECORD_LEN)
        found.count = (last - found.data) // RECORD_LEN + 1
        return True

    def note(self, bytes hashX not None, uint64_t tx_num):
        """Add one entry of history, for tests."""
        assert len(hashX) == HASHX_LEN
        if not grow(&self.records, RECORD_LEN, 1):
            raise MemoryError
        self.record(<const uint8_t *> PyBytes_AS_STRING(hashX), tx_num)

    def history_hashXs(self):
        """Return the set of hashXs that have history here: what was taken, or else all."""
        cdef Array *records = &self.taken_records if self.history_taken else &self.records
        cdef size_t n
        return {
            PyBytes_FromStringAndSize(<char *> records.data + RECORD_LEN * n, HASHX_LEN)
            for n in range(records.count)
        }

    def take_history(self):
        """Take the history for a flush, until :meth:`clear_history`."""
        assert not self.history_taken
        self.taken_records = self.records
        memset(&self.records, 0, sizeof(Array))
        self.history_taken = True
        self.touched_from = self.written = 0

    def sort_history(self):
        """Order the history by script, to be written; it is taken now, if it was not before."""
        if not self.history_taken:
            self.take_history()
        with nogil:
            sort_records(&self.taken_records)
        self.written = 0

    def put_history(self, put, bytes flush_id not None, size_t max_bytes):
        """Call ``put(hashX + flush_id, row)`` for scripts, in key order, for ``max_bytes`` or more.

        Goes on where it left off.  Return how many scripts there were; 0 at the end.
        """
        cdef size_t n = self.written
        cdef size_t count = self.taken_records.count
        cdef size_t scripts = 0
        cdef size_t size = 0
        cdef size_t last, kept
        cdef uint8_t *data = self.taken_records.data
        cdef uint8_t *row
        cdef uint8_t *at
        cdef int k
        while n < count and size < max_bytes:
            last = n + 1
            kept = 1
            while last < count and memcmp(data + RECORD_LEN * last, data + RECORD_LEN * n,
                                          HASHX_LEN) == 0:
                if memcmp(data + RECORD_LEN * last, data + RECORD_LEN * (last - 1),
                          RECORD_LEN) != 0:
                    kept += 1
                last += 1
            value = PyBytes_FromStringAndSize(NULL, kept * 5)
            row = <uint8_t *> PyBytes_AS_STRING(value)
            key = PyBytes_FromStringAndSize(<char *> data + RECORD_LEN * n, HASHX_LEN) + flush_id
            at = data + RECORD_LEN * n
            while True:
                for k in range(5):
                    row[k] = at[15 - k]
                row += 5
                n += 1
                while n < last and memcmp(data + RECORD_LEN * n, at, RECORD_LEN) == 0:
                    n += 1
                if n == last:
                    break
                at = data + RECORD_LEN * n
            put(key, value)
            size += kept * 5 + 13
            scripts += 1
        self.written = n
        return scripts

    def clear_history(self):
        """Forget the history taken, which is on disk, and give its memory back."""
        release(&self.taken_records)
        self.history_taken = False
