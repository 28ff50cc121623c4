# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Parses blocks in Bitcoin's transaction formats in Cython, and hashes their transactions.

The reference implementation is ``electrumx.lib.tx``: property tests feed both the same blocks and
compare the results, and for bytes that are no block the errors.

A parsed block is four flat arrays: tx hashes (32 bytes each), numbers of spends and outputs of each
transaction, outpoints spent (36 bytes: tx_hash, txout_idx LE4; generation inputs left out), and
outputs (hashX 11, value LE8, flags 1).  None of it is a Python object.  Parsing has no shared state
and may run in any thread; that of a block releases the GIL.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from electrumx.lib.errors import DeserializeError, SkipTxDeserialize
from electrumx.lib.tx.reader import trailing_bytes
from electrumx.server.block_processor._arrays cimport Array, grow, release
from electrumx.server.block_processor._layout cimport (
    LOCKTIME_LEN,
    OUTPUT_FLAGS,
    OUTPUT_LEN,
    SEQUENCE_LEN,
    VERSION_LEN,
)
from electrumx.server.storage._layout cimport (
    HASH_LEN,
    HASHX_LEN,
    OUTPOINT_LEN,
    TXOUT_IDX_LEN,
    VALUE_LEN,
)
from electrumx.lib._sha256 cimport (
    SHORT_LEN,
    Message,
    blocks_of,
    hash_twice,
    hash_two_twice,
    message_length,
    sha256,
    sha256_of_two_short,
)


cdef enum:
    # results of the parser
    OK = 0
    TRUNCATED = 1
    SKIP = 2
    NO_MEMORY = 3
    BAD_FLAG = 4
    TRAILING = 5
    # transaction formats
    FORMAT_PLAIN = 0
    FORMAT_SEGWIT = 1
    FORMAT_LITECOIN = 2
    # bits of the flag behind a marker; EXTENSION_FLAG is Litecoin's (MWEB)
    WITNESS_FLAG = 1
    EXTENSION_FLAG = 8

PLAIN, SEGWIT, LITECOIN = FORMAT_PLAIN, FORMAT_SEGWIT, FORMAT_LITECOIN


cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


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
    """Return the flags of an output with this script: by which rules it can be spent."""
    if length >= 1 and script[0] == 0x6a:
        return SPENDABLE_GENESIS
    if length >= 2 and script[0] == 0 and script[1] == 0x6a:
        return 0
    return SPENDABLE_LEGACY | SPENDABLE_GENESIS


cdef inline bint read_minimal(Cursor *c, uint64_t *value) noexcept nogil:
    """Read a compact size; return false if it is truncated or not minimal."""
    cdef uint8_t first
    cdef int extra, n
    if c.at >= c.end:
        return False
    first = c.at[0]
    c.at += 1
    if first < 253:
        value[0] = first
        return True
    extra = 2 if first == 253 else (4 if first == 254 else 8)
    if c.end - c.at < extra:
        return False
    value[0] = 0
    for n in range(extra - 1, -1, -1):
        value[0] = (value[0] << 8) | c.at[n]
    c.at += extra
    if extra == 2:
        return value[0] >= 253
    return value[0] >> (4 * extra) != 0


cdef uint64_t token_prefix_len(const uint8_t *field, uint64_t length) noexcept nogil:
    """Return the bytes of a script field that are a token prefix: see ``lib.tx.cash_tokens``."""
    cdef Cursor c
    cdef uint64_t value
    cdef uint8_t bits
    if length < 34 or field[0] != 0xef:
        return 0
    bits = field[33]
    # A reserved bit, an unknown capability, or no token at all.
    if bits & 0x80 or bits & 0x0f > 2 or not (bits & 0x20 or bits == 0x10):
        return 0
    c.at, c.end = field + 34, field + length
    if bits & 0x40:
        if not read_minimal(&c, &value) or value == 0 or value > <uint64_t> (c.end - c.at):
            return 0
        c.at += value
    if bits & 0x10:
        if not read_minimal(&c, &value) or value == 0 or value >> 63:
            return 0
    return <uint64_t> (c.at - field)


cdef inline bint is_generation(const uint8_t *outpoint) noexcept nogil:
    cdef int n
    for n in range(HASH_LEN):
        if outpoint[n]:
            return False
    return outpoint[32] & outpoint[33] & outpoint[34] & outpoint[35] == 0xff


cdef class FastBlock:
    """A parsed block; made by :func:`parse_block`."""

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
        return PyBytes_FromStringAndSize(<char *> self.hashes.data, self.hashes.count * HASH_LEN)

    @property
    def spent_outpoints(self):
        """The outpoints spent, 36 bytes each, joined; those of generation inputs left out."""
        return PyBytes_FromStringAndSize(
            <char *> self.spends.data, self.spends.count * OUTPOINT_LEN)

    @property
    def spend_counts(self):
        """How many of the outpoints spent are of each transaction, as bytes of array("I")."""
        cdef TxShape *shapes = <TxShape *> self.shapes.data
        cdef bytes result = PyBytes_FromStringAndSize(NULL, self.tx_count * sizeof(uint32_t))
        cdef uint32_t *counts = <uint32_t *> PyBytes_AS_STRING(result)
        for n in range(self.tx_count):
            counts[n] = shapes[n].spends
        return result

    @property
    def memsize(self):
        """Bytes held beside the raw block."""
        return (self.hashes.room * HASH_LEN + self.shapes.room * sizeof(TxShape)
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
                spends.append((raw[:HASH_LEN], int.from_bytes(raw[HASH_LEN:], "little")))
                spend += OUTPOINT_LEN
            for _ in range(shapes[n].outputs):
                raw = PyBytes_FromStringAndSize(<char *> output, OUTPUT_LEN)
                value = int.from_bytes(raw[HASHX_LEN:OUTPUT_FLAGS], "little")
                outputs.append((raw[:HASHX_LEN], value, raw[OUTPUT_FLAGS]))
                output += OUTPUT_LEN
            result.append((spends, outputs))
        return result


# -- the parts of a transaction

cdef struct Marker:
    # whether the transaction has the marker of an extension, and which by its flag
    bint present
    uint8_t flag
    bint has_witness


cdef inline int read_marker(Cursor *c, int tx_format, Marker *marker) noexcept nogil:
    """Read the version and, where the format has it, the marker and the flag."""
    marker.present = marker.has_witness = False
    marker.flag = 0
    if c.end - c.at < VERSION_LEN + 1:
        return TRUNCATED
    c.at += VERSION_LEN
    if tx_format == FORMAT_PLAIN or c.at[0] != 0:
        return OK
    if c.end - c.at < 2:
        return TRUNCATED
    marker.present = True
    marker.flag = c.at[1]
    marker.has_witness = True
    c.at += 2
    if tx_format == FORMAT_LITECOIN:
        if marker.flag == 0:
            return SKIP
        if marker.flag & ~(WITNESS_FLAG | EXTENSION_FLAG):
            return BAD_FLAG
        marker.has_witness = (marker.flag & WITNESS_FLAG) != 0
    return OK


cdef inline bint has_extension(int tx_format, const Marker *marker) noexcept nogil:
    """Return whether data of Litecoin's extension block follows the witness."""
    return tx_format == FORMAT_LITECOIN and (marker.flag & EXTENSION_FLAG) != 0


cdef inline int read_input(Cursor *c, const uint8_t **outpoint) noexcept nogil:
    """Read an input; set its outpoint, NULL for a generation input."""
    cdef uint64_t length
    cdef int verdict
    if c.end - c.at < OUTPOINT_LEN:
        return TRUNCATED
    outpoint[0] = c.at
    if is_generation(c.at):
        outpoint[0] = NULL
    c.at += OUTPOINT_LEN
    verdict = read_size(c, &length)
    if verdict != OK:
        return verdict
    c.at += length
    if c.end - c.at < SEQUENCE_LEN:
        return TRUNCATED
    c.at += SEQUENCE_LEN
    return OK


cdef inline int read_output(Cursor *c, bint tokens, const uint8_t **value,
                            const uint8_t **script, uint64_t *length) noexcept nogil:
    """Read an output; set its value LE8 and its script, without a token prefix if ``tokens``."""
    cdef uint64_t prefix
    cdef int verdict
    if c.end - c.at < VALUE_LEN:
        return TRUNCATED
    value[0] = c.at
    c.at += VALUE_LEN
    verdict = read_size(c, length)
    if verdict != OK:
        return verdict
    prefix = token_prefix_len(c.at, length[0]) if tokens else 0
    script[0] = c.at + prefix
    c.at += length[0]
    length[0] -= prefix
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


# -- hashing, two messages of as many blocks at a time

cdef enum:
    # hash transactions of more blocks of SHA-256 than that alone
    MOST_BLOCKS = 32


cdef struct WaitingTx:
    bint present
    Message message
    # the number of its hash
    size_t number


cdef struct Waiting:
    # a short script, to hash together with the next one, or NULL, and its output
    const uint8_t *script
    size_t length
    size_t output
    # transactions to hash together with the next one of 1, 2, ... blocks
    WaitingTx txs[MOST_BLOCKS]


cdef inline void put_hashX(FastBlock block, Waiting *waiting, const uint8_t *script,
                           uint64_t length) noexcept nogil:
    """Put the hashX of the next output's script, now or when there is another one."""
    cdef uint8_t digest[HASH_LEN]
    cdef uint8_t digest2[HASH_LEN]
    cdef uint8_t *outputs = block.outputs.data
    cdef size_t output = block.outputs.count
    if length > SHORT_LEN:
        sha256(script, length, digest)
    elif waiting.script == NULL:
        waiting.script, waiting.length, waiting.output = script, length, output
        return
    else:
        sha256_of_two_short(script, length, digest, waiting.script, waiting.length, digest2)
        memcpy(outputs + OUTPUT_LEN * waiting.output, digest2, HASHX_LEN)
        waiting.script = NULL
    memcpy(outputs + OUTPUT_LEN * output, digest, HASHX_LEN)


cdef inline void put_tx_hash(FastBlock block, Waiting *waiting, const Message *tx) noexcept nogil:
    """Put the hash of the next transaction, for which there is room, now or when there is another."""
    cdef uint8_t *hashes = block.hashes.data
    cdef uint8_t *digest = hashes + HASH_LEN * block.hashes.count
    cdef size_t blocks = blocks_of(message_length(tx))
    cdef size_t number = block.hashes.count
    cdef WaitingTx *other
    block.hashes.count += 1
    if blocks > MOST_BLOCKS:
        hash_twice(tx, digest)
        return
    other = &waiting.txs[blocks - 1]
    if other.present:
        hash_two_twice(tx, digest, &other.message, hashes + HASH_LEN * other.number)
        other.present = False
    else:
        other.message, other.number, other.present = tx[0], number, True


cdef void hash_rest(FastBlock block, Waiting *waiting) noexcept nogil:
    """Hash the scripts and transactions that have waited to the end of the block."""
    cdef uint8_t digest[HASH_LEN]
    cdef uint8_t *hashes = block.hashes.data
    cdef WaitingTx *tx
    cdef WaitingTx *before = NULL
    cdef int n
    if waiting.script != NULL:
        sha256(waiting.script, waiting.length, digest)
        memcpy(block.outputs.data + OUTPUT_LEN * waiting.output, digest, HASHX_LEN)
    for n in range(MOST_BLOCKS):
        tx = &waiting.txs[n]
        if not tx.present:
            continue
        if before == NULL:
            before = tx
            continue
        hash_two_twice(&before.message, hashes + HASH_LEN * before.number,
                       &tx.message, hashes + HASH_LEN * tx.number)
        before = NULL
    if before != NULL:
        hash_twice(&before.message, hashes + HASH_LEN * before.number)


# -- blocks

cdef int parse_all(FastBlock block, Cursor *c, int tx_format, bint tokens) noexcept nogil:
    cdef uint64_t count, n
    cdef Waiting waiting
    cdef int verdict = read_size(c, &count)
    if verdict != OK:
        return verdict
    memset(&waiting, 0, sizeof(Waiting))
    for n in range(count):
        verdict = parse_tx(block, c, tx_format, tokens, &waiting)
        if verdict != OK:
            return verdict
    hash_rest(block, &waiting)
    block.tx_count = <uint32_t> count
    return OK


cdef int parse_tx(FastBlock block, Cursor *c, int tx_format, bint tokens,
                  Waiting *waiting) noexcept nogil:
    """Parse one transaction, and hash it or have it wait."""
    cdef const uint8_t *start = c.at
    cdef const uint8_t *body
    cdef const uint8_t *body_end
    cdef uint64_t inputs
    cdef Marker marker
    cdef TxShape *shape
    cdef Message message
    cdef int verdict = read_marker(c, tx_format, &marker)
    if verdict != OK:
        return verdict
    body = c.at
    if not grow(&block.shapes, sizeof(TxShape), 1):
        return NO_MEMORY
    shape = <TxShape *> block.shapes.data + block.shapes.count
    shape.spends = shape.outputs = 0
    verdict = parse_inputs(block, c, shape, &inputs)
    if verdict == OK:
        verdict = parse_outputs(block, c, shape, tokens, waiting)
    if verdict != OK:
        return verdict
    body_end = c.at
    if marker.has_witness:
        verdict = skip_witness(c, inputs)
        if verdict != OK:
            return verdict
    if has_extension(tx_format, &marker):
        if c.at >= c.end:
            return TRUNCATED
        if c.at[0] != 0:
            return SKIP
        c.at += 1
    if c.end - c.at < LOCKTIME_LEN:
        return TRUNCATED
    c.at += LOCKTIME_LEN
    block.shapes.count += 1

    if not grow(&block.hashes, HASH_LEN, 1):
        return NO_MEMORY
    if marker.present:
        message.parts[0], message.lengths[0] = start, VERSION_LEN
        message.parts[1], message.lengths[1] = body, body_end - body
        message.parts[2], message.lengths[2] = c.at - LOCKTIME_LEN, LOCKTIME_LEN
    else:
        message.parts[0], message.lengths[0] = start, c.at - start
        message.parts[1] = message.parts[2] = NULL
        message.lengths[1] = message.lengths[2] = 0
    put_tx_hash(block, waiting, &message)
    return OK


cdef int parse_inputs(FastBlock block, Cursor *c, TxShape *shape, uint64_t *count) noexcept nogil:
    cdef uint64_t n
    cdef const uint8_t *outpoint
    cdef int verdict = read_size(c, count)
    if verdict != OK:
        return verdict
    for n in range(count[0]):
        verdict = read_input(c, &outpoint)
        if verdict != OK:
            return verdict
        if outpoint == NULL:
            continue
        if not grow(&block.spends, OUTPOINT_LEN, 1):
            return NO_MEMORY
        memcpy(block.spends.data + OUTPOINT_LEN * block.spends.count, outpoint, OUTPOINT_LEN)
        block.spends.count += 1
        shape.spends += 1
    return OK


cdef int parse_outputs(FastBlock block, Cursor *c, TxShape *shape, bint tokens,
                       Waiting *waiting) noexcept nogil:
    cdef uint64_t n, count, length
    cdef const uint8_t *value
    cdef const uint8_t *script
    cdef uint8_t *output
    cdef int verdict = read_size(c, &count)
    if verdict != OK:
        return verdict
    for n in range(count):
        verdict = read_output(c, tokens, &value, &script, &length)
        if verdict != OK:
            return verdict
        if not grow(&block.outputs, OUTPUT_LEN, 1):
            return NO_MEMORY
        output = block.outputs.data + OUTPUT_LEN * block.outputs.count
        memcpy(output + HASHX_LEN, value, VALUE_LEN)
        output[OUTPUT_FLAGS] = spendable(script, length)
        if output[OUTPUT_FLAGS]:
            put_hashX(block, waiting, script, length)
        else:
            memset(output, 0, HASHX_LEN)
        block.outputs.count += 1
        shape.outputs += 1
    return OK


def parse_block(raw not None, Py_ssize_t header_len, int tx_format, bint tokens, bint whole):
    """Parse a raw block, bytes or a map of a file, whose header has ``header_len`` bytes.

    With ``tokens``, scripts are those behind a token prefix; with ``whole``, nothing may follow
    the last transaction.
    Raise DeserializeError where the reference implementation does.
    """
    cdef FastBlock block = FastBlock.__new__(FastBlock)
    cdef Cursor c
    cdef Py_buffer view
    cdef int verdict
    if len(raw) < header_len:
        raise DeserializeError(f"a block of {len(raw):,d} bytes is shorter than its header")
    block.raw = raw
    block.header = raw[:header_len]
    PyObject_GetBuffer(raw, &view, PyBUF_SIMPLE)
    c.at = <const uint8_t *> view.buf + header_len
    c.end = <const uint8_t *> view.buf + view.len
    with nogil:
        verdict = parse_all(block, &c, tx_format, tokens)
        if verdict == OK and whole and c.at != c.end:
            verdict = TRAILING
    PyBuffer_Release(&view)
    if verdict == OK:
        return block
    if verdict == TRAILING:
        raise trailing_bytes(c.end - c.at)
    if verdict == NO_MEMORY:
        raise MemoryError
    if verdict == SKIP:
        raise SkipTxDeserialize("a transaction within the extension block")
    if verdict == BAD_FLAG:
        raise DeserializeError("a transaction flag is unknown")
    raise DeserializeError("truncated within the transactions of a block")


def parse_unconfirmed(bytes raw not None, int tx_format, bint tokens):
    """Return the mempool's fields of a transaction: (prevouts, outputs, virtual size).

    Prevouts are (tx_hash, txout_idx), without generation inputs; outputs are (hashX, value) of all
    of them, unspendable ones, too.  None if it is invalid: the reference
    implementation then finds the reason.
    """
    cdef const uint8_t *start = <const uint8_t *> PyBytes_AS_STRING(raw)
    cdef const uint8_t *body
    cdef const uint8_t *at
    cdef const uint8_t *script
    cdef Cursor c
    cdef Marker marker
    cdef uint64_t inputs, count, length, n
    cdef uint32_t idx
    cdef int64_t value
    cdef size_t stripped, total
    cdef uint8_t digest[HASH_LEN]
    cdef list prevouts = []
    cdef list outputs = []

    c.at, c.end = start, start + PyBytes_GET_SIZE(raw)
    if read_marker(&c, tx_format, &marker) != OK:
        return None
    body = c.at
    if read_size(&c, &inputs) != OK:
        return None
    for n in range(inputs):
        if read_input(&c, &at) != OK:
            return None
        if at != NULL:
            memcpy(&idx, at + HASH_LEN, TXOUT_IDX_LEN)
            prevouts.append((PyBytes_FromStringAndSize(<const char *> at, HASH_LEN), idx))
    if read_size(&c, &count) != OK:
        return None
    for n in range(count):
        if read_output(&c, tokens, &at, &script, &length) != OK:
            return None
        memcpy(&value, at, VALUE_LEN)
        sha256(script, length, digest)
        outputs.append((PyBytes_FromStringAndSize(<const char *> digest, HASHX_LEN), value))
    # Including version and locktime.
    stripped = VERSION_LEN + LOCKTIME_LEN + (c.at - body)
    if marker.has_witness and skip_witness(&c, inputs) != OK:
        return None
    total = c.at + LOCKTIME_LEN - start
    if has_extension(tx_format, &marker):
        if c.at >= c.end:
            return None
        if c.at[0] == 0:
            total += 1
        elif not inputs:
            return None
        else:
            # The marker, the flag and the extension's data do not count, see lib.tx.litecoin.
            total -= 0 if marker.has_witness else 2
        c.at += 1
    if c.end - c.at < LOCKTIME_LEN:
        return None
    return tuple(prevouts), tuple(outputs), (3 * stripped + total + 3) // 4
