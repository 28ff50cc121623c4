# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The Cython implementation of replies: from packed rows to JSON, text and proofs.

The reference implementation, and its substitute where it is not built, is the pure-Python one in
``wire_rows``, which describes the arguments and results; property tests feed both the same rows.

The loops over transaction hashes, and all encoding of many items, run without the GIL, so that
neither the event loop nor other readers wait for them.  Reading the cumulative counts holds it:
that array may grow at any moment, but only with the GIL.
"""

from cpython cimport array
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcmp, memcpy

from electrumx.lib._sha256 cimport (
    SHA256_CTX,
    SHA256_Final,
    SHA256_Init,
    SHA256_Update,
    finish_twice,
)
from electrumx.server.storage._layout cimport (
    HASH_LEN,
    HASHX_LEN,
    HISTORY_ENTRY_LEN,
    PACKED_UTXO_LEN,
    TOUCH_RECORD_LEN,
    TXNUM_LEN,
    TXOUT_IDX_LEN,
    UTXO_KEY_LEN,
    VALUE_LEN,
)

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *buf, size_t count, long offset)


cdef enum:
    # where txout_idx and tx_num begin in the key of a ``u`` row
    KEY_IDX = UTXO_KEY_LEN - TXNUM_LEN - TXOUT_IDX_LEN
    KEY_NUM = UTXO_KEY_LEN - TXNUM_LEN
    # where height, txout_idx and value begin in a packed UTXO
    UTXO_HEIGHT = HASH_LEN
    UTXO_IDX = HISTORY_ENTRY_LEN
    UTXO_VALUE = PACKED_UTXO_LEN - VALUE_LEN
    # hashes read in one go at most, and how far apart two that are worth it may lie
    RUN = 2048
    GAP = 128
    # number of items from which on to release the GIL
    MANY = 500

# Two hex digits for each byte.
cdef uint16_t HEX[256]
cdef int _n
cdef bytes _digits = b"0123456789abcdef"
for _n in range(256):
    (<uint8_t *> &HEX[_n])[0] = _digits[_n >> 4]
    (<uint8_t *> &HEX[_n])[1] = _digits[_n & 15]


cdef inline uint64_t le5(const uint8_t *p) noexcept nogil:
    return p[0] | <uint64_t> p[1] << 8 | <uint64_t> p[2] << 16 | <uint64_t> p[3] << 24 \
        | <uint64_t> p[4] << 32


cdef inline uint32_t le4(const uint8_t *p) noexcept nogil:
    return p[0] | <uint32_t> p[1] << 8 | <uint32_t> p[2] << 16 | <uint32_t> p[3] << 24


cdef inline uint64_t le8(const uint8_t *p) noexcept nogil:
    return le4(p) | <uint64_t> le4(p + 4) << 32


cdef inline void put4(uint8_t *p, uint32_t value) noexcept nogil:
    p[0], p[1], p[2], p[3] = value & 255, value >> 8 & 255, value >> 16 & 255, value >> 24


cdef inline uint8_t *put_hash(uint8_t *p, const uint8_t *tx_hash) noexcept nogil:
    """Write a hash as displayed: 64 digits, the last byte first."""
    cdef int n
    for n in range(HASH_LEN):
        memcpy(p + 2 * n, &HEX[tx_hash[HASH_LEN - 1 - n]], 2)
    return p + 2 * HASH_LEN


cdef inline uint8_t *put_number(uint8_t *p, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int n = 20
    while True:
        n -= 1
        digits[n] = 48 + value % 10
        value //= 10
        if not value:
            break
    memcpy(p, digits + n, 20 - n)
    return p + 20 - n


cdef inline uint8_t *put_text(uint8_t *p, const char *text, size_t length) noexcept nogil:
    memcpy(p, text, length)
    return p + length


# -- hashes and heights

cdef Py_ssize_t read_hashes(
    int fd, const uint64_t *nums, Py_ssize_t count, uint64_t first, uint8_t *out,
    Py_ssize_t stride, uint8_t *room,
) noexcept nogil:
    """Read the hashes of ascending numbers of one file, whose first is ``first``.

    Return how many it read; fewer than ``count`` if the file is too short.
    """
    cdef Py_ssize_t n = 0, end, k
    cdef ssize_t want
    while n < count:
        end = n + 1
        while end < count and nums[end] - nums[end - 1] < GAP and nums[end] - nums[n] < RUN:
            end += 1
        want = (nums[end - 1] - nums[n] + 1) * HASH_LEN
        if pread(fd, room, want, (nums[n] - first) * HASH_LEN) != want:
            return n
        for k in range(n, end):
            memcpy(out + k * stride, room + (nums[k] - nums[n]) * HASH_LEN, HASH_LEN)
        n = end
    return n


cdef int put_heights(
    const uint64_t *nums, Py_ssize_t count, array.array counts, uint8_t *out, Py_ssize_t stride,
) except -1:
    """Write the heights, LE4, of ascending numbers, with the GIL held all the time."""
    cdef Py_ssize_t n, low = 0, high, middle, total = len(counts)
    cdef uint64_t number
    cdef const uint64_t *ends = <const uint64_t *> counts.data.as_ulonglongs
    if counts.ob_descr.typecode != b'Q':
        raise TypeError("counts must be an array of 64-bit numbers")
    for n in range(count):
        number = nums[n]
        if low < total and ends[low] <= number:
            # Double the step, then halve the gap: this finds near ones at once.
            high = 1
            while low + high < total and ends[low + high] <= number:
                low += high
                high *= 2
            high = min(low + high, total)
            while low < high:
                middle = (low + high) // 2
                if ends[middle] <= number:
                    low = middle + 1
                else:
                    high = middle
        put4(out + n * stride + HASH_LEN, <uint32_t> low)
    return 0


cdef bint fill(
    const uint64_t *nums, Py_ssize_t count, array.array counts, object open_file,
    Py_ssize_t per_file, uint8_t *out, Py_ssize_t stride,
) except -1:
    """Write hash and height LE4 of ascending numbers; false if a hash is missing."""
    cdef Py_ssize_t n = 0, end, got
    cdef uint64_t number, limit, first
    cdef uint8_t *room
    cdef object held
    cdef int fd
    put_heights(nums, count, counts, out, stride)
    room = <uint8_t *> malloc(RUN * HASH_LEN if count > 1 else HASH_LEN)
    if room == NULL:
        raise MemoryError
    try:
        while n < count:
            number = nums[n] // <uint64_t> per_file
            first = number * per_file
            limit = first + per_file
            end = n + 1
            while end < count and nums[end] < limit:
                end += 1
            held = open_file(number)
            if held is None:
                return False
            fd = held.fd
            # Without the GIL, however few: the disk may be slow.
            with nogil:
                got = read_hashes(fd, nums + n, end - n, first, out + n * stride, stride, room)
            if got < end - n:
                return False
            n = end
    finally:
        free(room)
    return True


# Numbers of one row whose hashes are in one file
cdef struct Part:
    Py_ssize_t row
    int fd
    uint64_t first
    const uint64_t *nums
    Py_ssize_t count
    uint8_t *out
    bint whole


def pack_histories(
    list rows not None, uint64_t tx_count, array.array counts not None, open_file,
    Py_ssize_t per_file,
):
    """Return (packed history, last number) of each row; None where a hash is missing.

    Read all hashes in one go, to release the GIL, and acquire it, once.
    """
    cdef Py_ssize_t total = 0, part_total = 0, part_count = 0, n, row, count, start
    cdef uint64_t number = 0
    cdef const uint8_t *at
    cdef uint64_t *nums = NULL
    cdef uint64_t *p
    cdef Part *parts = NULL
    cdef Part *part
    cdef uint8_t *out
    cdef uint8_t *room = NULL
    cdef bytes text, packed
    cdef object file = None, last
    cdef list files = [], result = []
    for text in rows:
        count = PyBytes_GET_SIZE(text) // TXNUM_LEN
        total += count
        if count:
            at = <const uint8_t *> PyBytes_AS_STRING(text)
            number = le5(at + (count - 1) * TXNUM_LEN) // <uint64_t> per_file
            start = <Py_ssize_t> number - <Py_ssize_t> (le5(at) // <uint64_t> per_file) + 1
            part_total += min(count, max(start, 1))
    if not total:
        return [(b"", -1)] * len(rows)
    nums = <uint64_t *> malloc(total * sizeof(uint64_t))
    parts = <Part *> malloc(part_total * sizeof(Part))
    room = <uint8_t *> malloc(RUN * HASH_LEN if total > 1 else HASH_LEN)
    try:
        if nums == NULL or parts == NULL or room == NULL:
            raise MemoryError
        p = nums
        for row in range(len(rows)):
            text = rows[row]
            at = <const uint8_t *> PyBytes_AS_STRING(text)
            count = PyBytes_GET_SIZE(text) // TXNUM_LEN
            for n in range(count):
                p[n] = le5(at + n * TXNUM_LEN)
                if p[n] >= tx_count:
                    count = n
                    break
            packed = PyBytes_FromStringAndSize(NULL, count * HISTORY_ENTRY_LEN)
            last = -1
            if count:
                last = p[count - 1]
            result.append((packed, last))
            out = <uint8_t *> PyBytes_AS_STRING(packed)
            put_heights(p, count, counts, out, HISTORY_ENTRY_LEN)
            start = 0
            while start < count:
                number = p[start] // <uint64_t> per_file
                n = start + 1
                while n < count and p[n] // <uint64_t> per_file == number:
                    n += 1
                if not part_count or parts[part_count - 1].first != number * per_file:
                    file = open_file(number)
                    # Held open until the end of all reads
                    files.append(file)
                if part_count == part_total:
                    raise ValueError("transaction numbers do not ascend")
                part = &parts[part_count]
                part_count += 1
                part.row, part.fd = row, -1
                if file is not None:
                    part.fd = file.fd
                part.first = number * per_file
                part.nums, part.count = p + start, n - start
                part.out = out + start * HISTORY_ENTRY_LEN
                start = n
            p += count
        with nogil:
            for n in range(part_count):
                part = &parts[n]
                part.whole = part.fd >= 0 and part.count == read_hashes(
                    part.fd, part.nums, part.count, part.first, part.out, HISTORY_ENTRY_LEN, room
                )
        for n in range(part_count):
            if not parts[n].whole:
                result[parts[n].row] = None
    finally:
        free(nums)
        free(parts)
        free(room)
    return result


# -- UTXOs

cdef struct Utxo:
    uint64_t tx_num
    uint32_t txout_idx
    uint64_t value


cdef int chain_order(const void *a, const void *b) noexcept nogil:
    cdef const Utxo *x = <const Utxo *> a
    cdef const Utxo *y = <const Utxo *> b
    if x.tx_num != y.tx_num:
        return 1 if x.tx_num > y.tx_num else -1
    return (x.txout_idx > y.txout_idx) - (x.txout_idx < y.txout_idx)


cdef Py_ssize_t read_utxos(list rows, uint64_t tx_count, Utxo *utxos) except -2:
    """Unpack rows; return how many, -1 for an uncommitted one."""
    cdef Py_ssize_t n = 0
    cdef bytes key, value
    cdef const uint8_t *at
    for key, value in rows:
        if PyBytes_GET_SIZE(key) != UTXO_KEY_LEN or PyBytes_GET_SIZE(value) != VALUE_LEN:
            raise ValueError("this is no row of a UTXO")
        at = <const uint8_t *> PyBytes_AS_STRING(key)
        utxos[n].txout_idx = le4(at + KEY_IDX)
        utxos[n].tx_num = le5(at + KEY_NUM)
        utxos[n].value = le8(<const uint8_t *> PyBytes_AS_STRING(value))
        if utxos[n].tx_num >= tx_count:
            return -1
        n += 1
    return n


def sum_utxos(list rows not None, uint64_t tx_count):
    """Return the sum of the values; None with an uncommitted UTXO."""
    cdef bytes key, value
    cdef uint64_t total = 0
    for key, value in rows:
        if PyBytes_GET_SIZE(key) != UTXO_KEY_LEN or PyBytes_GET_SIZE(value) != VALUE_LEN:
            raise ValueError("this is no row of a UTXO")
        if le5(<const uint8_t *> PyBytes_AS_STRING(key) + KEY_NUM) >= tx_count:
            return None
        total += le8(<const uint8_t *> PyBytes_AS_STRING(value))
    return total


def pack_utxos(
    list rows not None, uint64_t tx_count, array.array counts not None, open_file,
    Py_ssize_t per_file,
):
    """Return packed UTXOs in chain order; None with an uncommitted one."""
    cdef Py_ssize_t count = len(rows), n
    cdef Utxo *utxos
    cdef uint64_t *nums = NULL
    cdef uint8_t *out
    cdef bytes result
    if not count:
        return b""
    utxos = <Utxo *> malloc(count * sizeof(Utxo))
    nums = <uint64_t *> malloc(count * sizeof(uint64_t))
    try:
        if utxos == NULL or nums == NULL:
            raise MemoryError
        if read_utxos(rows, tx_count, utxos) < 0:
            return None
        with nogil:
            qsort(utxos, count, sizeof(Utxo), chain_order)
        result = PyBytes_FromStringAndSize(NULL, count * PACKED_UTXO_LEN)
        out = <uint8_t *> PyBytes_AS_STRING(result)
        for n in range(count):
            nums[n] = utxos[n].tx_num
            put4(out + n * PACKED_UTXO_LEN + UTXO_IDX, utxos[n].txout_idx)
            put4(out + n * PACKED_UTXO_LEN + UTXO_VALUE, utxos[n].value & 0xffffffff)
            put4(out + n * PACKED_UTXO_LEN + UTXO_VALUE + 4, utxos[n].value >> 32)
        if not fill(nums, count, counts, open_file, per_file, out, PACKED_UTXO_LEN):
            return None
    finally:
        free(utxos)
        free(nums)
    return result


# -- JSON and texts

cdef uint8_t *write_history(
    const uint8_t *at, Py_ssize_t count, uint8_t *p
) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(count):
        p = put_text(p, b'{"tx_hash":"', 12)
        p = put_hash(p, at)
        p = put_text(p, b'","height":', 11)
        p = put_number(p, le4(at + HASH_LEN))
        p = put_text(p, b'},', 2)
        at += HISTORY_ENTRY_LEN
    return p


cdef uint8_t *write_status(const uint8_t *at, Py_ssize_t count, uint8_t *p) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(count):
        p = put_hash(p, at)
        p[0] = b':'
        p = put_number(p + 1, le4(at + HASH_LEN))
        p[0] = b':'
        p += 1
        at += HISTORY_ENTRY_LEN
    return p


cdef uint8_t *write_utxos(const uint8_t *at, Py_ssize_t count, uint8_t *p) noexcept nogil:
    cdef Py_ssize_t n
    for n in range(count):
        p = put_text(p, b'{"tx_hash":"', 12)
        p = put_hash(p, at)
        p = put_text(p, b'","tx_pos":', 11)
        p = put_number(p, le4(at + UTXO_IDX))
        p = put_text(p, b',"height":', 10)
        p = put_number(p, le4(at + UTXO_HEIGHT))
        p = put_text(p, b',"value":', 9)
        p = put_number(p, le8(at + UTXO_VALUE))
        p = put_text(p, b'},', 2)
        at += PACKED_UTXO_LEN
    return p

ctypedef uint8_t *(*Writer)(const uint8_t *, Py_ssize_t, uint8_t *) noexcept nogil


cdef bytes written(bytes packed, Py_ssize_t item_len, Py_ssize_t room, Writer write, int cut):
    """Return the output of ``write`` for packed items, without the last ``cut`` bytes."""
    cdef Py_ssize_t count = PyBytes_GET_SIZE(packed) // item_len
    cdef const uint8_t *at = <const uint8_t *> PyBytes_AS_STRING(packed)
    cdef uint8_t *out
    cdef uint8_t *end
    cdef uint8_t small[4096]
    if not count:
        return b""
    if count * room <= 4096:
        end = write(at, count, small)
        return PyBytes_FromStringAndSize(<char *> small, end - small - cut)
    out = <uint8_t *> malloc(count * room)
    if out == NULL:
        raise MemoryError
    try:
        if count < MANY:
            end = write(at, count, out)
        else:
            with nogil:
                end = write(at, count, out)
        return PyBytes_FromStringAndSize(<char *> out, end - out - cut)
    finally:
        free(out)


def history_json(bytes packed not None):
    """Return the objects of packed history, joined by commas."""
    return written(packed, HISTORY_ENTRY_LEN, 12 + 64 + 11 + 10 + 2, write_history, 1)


def status_text(bytes packed not None):
    """Return the text whose hash is the status."""
    return written(packed, HISTORY_ENTRY_LEN, 64 + 1 + 10 + 1, write_status, 0)


def utxos_json(bytes packed not None):
    """Return the objects of packed UTXOs, joined by commas."""
    return written(packed, PACKED_UTXO_LEN, 12 + 64 + 11 + 10 + 10 + 10 + 9 + 20 + 2, write_utxos, 1)


# -- hex digits

cdef extern from *:
    """
    /* Without branches and look-ups, so that compilers turn it into vector instructions. */
    static void write_hex(const unsigned char *restrict in, size_t count,
                          unsigned char *restrict out)
    {
        for (size_t n = 0; n < count; n++) {
            unsigned char high = in[n] >> 4, low = in[n] & 15;
            out[2 * n] = (unsigned char)(high + 48 + (high > 9 ? 39 : 0));
            out[2 * n + 1] = (unsigned char)(low + 48 + (low > 9 ? 39 : 0));
        }
    }
    """
    void write_hex(const uint8_t *data, size_t count, uint8_t *out) nogil


# -- what blocks add to histories

cdef enum:
    # entries to hash the text of in one go
    HASHED_AT_ONCE = 32


cdef inline uint64_t be5(const uint8_t *p) noexcept nogil:
    return <uint64_t> p[0] << 32 | <uint64_t> p[1] << 24 | <uint64_t> p[2] << 16 \
        | <uint64_t> p[3] << 8 | p[4]


cdef struct Job:
    # key of the first wanted record
    uint8_t key[TOUCH_RECORD_LEN]
    uint64_t last
    # the history so far, or NULL
    const uint8_t *known
    Py_ssize_t known_len
    # the records, and where to write the history
    Py_ssize_t first
    Py_ssize_t count
    uint8_t *out
    Py_ssize_t text_len
    uint8_t status[64]


def hashXs_of(bytes records not None):
    """Return the scripts that records name."""
    cdef Py_ssize_t count = PyBytes_GET_SIZE(records) // TOUCH_RECORD_LEN, n
    cdef const uint8_t *at = <const uint8_t *> PyBytes_AS_STRING(records)
    cdef set found = set()
    for n in range(count):
        if not n or memcmp(at, at - TOUCH_RECORD_LEN, HASHX_LEN) != 0:
            found.add(PyBytes_FromStringAndSize(<const char *> at, HASHX_LEN))
        at += TOUCH_RECORD_LEN
    return found


def status_of(bytes packed not None):
    """Return the status of packed history, and the length of its text."""
    cdef Job job
    cdef Py_ssize_t count = PyBytes_GET_SIZE(packed) // HISTORY_ENTRY_LEN
    if not count:
        return None, 0
    hash_text(<const uint8_t *> PyBytes_AS_STRING(packed), count, &job)
    return (<const uint8_t *> job.status)[:64].decode("ascii"), job.text_len


cdef void find_records(const uint8_t *records, Py_ssize_t total, Job *job) noexcept nogil:
    cdef Py_ssize_t low = 0, high = total, middle
    while low < high:
        middle = (low + high) // 2
        if memcmp(records + middle * TOUCH_RECORD_LEN, job.key, TOUCH_RECORD_LEN) < 0:
            low = middle + 1
        else:
            high = middle
    job.first = low
    while low < total and memcmp(records + low * TOUCH_RECORD_LEN, job.key, HASHX_LEN) == 0:
        low += 1
    job.count = low - job.first


cdef void hash_text(const uint8_t *entries, Py_ssize_t count, Job *job) noexcept nogil:
    """Hash the status text of packed history."""
    cdef SHA256_CTX context
    cdef uint8_t text[HASHED_AT_ONCE * 76]
    cdef uint8_t digest[HASH_LEN]
    cdef uint8_t *end
    cdef Py_ssize_t n = 0, part
    SHA256_Init(&context)
    job.text_len = 0
    while n < count:
        part = min(count - n, HASHED_AT_ONCE)
        end = write_status(entries + n * HISTORY_ENTRY_LEN, part, text)
        SHA256_Update(&context, text, end - text)
        job.text_len += end - text
        n += part
    SHA256_Final(digest, &context)
    write_hex(digest, HASH_LEN, job.status)


cdef void extend(
    Job *job, const uint8_t *records, const uint8_t *tx_hashes, uint64_t first_tx_num,
    const uint64_t *ends, uint32_t height,
) noexcept nogil:
    cdef uint8_t *p = job.out
    cdef const uint8_t *record
    cdef const uint8_t *entries
    cdef Py_ssize_t n, block = 0
    cdef uint64_t tx_num
    if job.count:
        if job.known_len:
            memcpy(p, job.known, job.known_len)
            p += job.known_len
        for n in range(job.count):
            record = records + (job.first + n) * TOUCH_RECORD_LEN
            tx_num = be5(record + HASHX_LEN)
            while ends[block] <= tx_num:
                block += 1
            memcpy(p, tx_hashes + (tx_num - first_tx_num) * HASH_LEN, HASH_LEN)
            put4(p + HASH_LEN, height + <uint32_t> block)
            p += HISTORY_ENTRY_LEN
        job.last = tx_num
    if job.known != NULL:
        entries = job.out if job.count else <uint8_t *> job.known
        hash_text(entries, job.known_len // HISTORY_ENTRY_LEN + job.count, job)


def extend_histories(
    list hashXs not None, list known not None, list last_tx_nums not None, addition
):
    """Return (entries, last transaction's number, status, length of its text) of each script."""
    cdef bytes records = addition.records
    cdef bytes tx_hashes = addition.tx_hashes
    cdef array.array ends = addition.ends
    cdef uint64_t first_tx_num = addition.first_tx_num
    cdef uint32_t height = addition.height
    cdef Py_ssize_t count = len(hashXs), n, total = PyBytes_GET_SIZE(records) // TOUCH_RECORD_LEN
    cdef const uint8_t *rows = <const uint8_t *> PyBytes_AS_STRING(records)
    cdef const uint8_t *hashes = <const uint8_t *> PyBytes_AS_STRING(tx_hashes)
    cdef uint64_t limit, after
    cdef object last
    cdef bytes hashX, so_far, whole
    cdef list wholes = [], result = []
    cdef Job *jobs
    cdef Job *job
    cdef int k
    if len(known) != count or len(last_tx_nums) != count:
        raise ValueError("as many of each are needed")
    if ends.ob_descr.typecode != b'Q':
        raise TypeError("ends must be an array of 64-bit numbers")
    limit = first_tx_num + PyBytes_GET_SIZE(tx_hashes) // HASH_LEN
    if total and (not len(ends) or ends.data.as_ulonglongs[len(ends) - 1] != limit):
        raise ValueError("there are not as many hashes as transactions")
    if not count:
        return result
    jobs = <Job *> malloc(count * sizeof(Job))
    if jobs == NULL:
        raise MemoryError
    try:
        for n in range(count):
            job = &jobs[n]
            hashX, so_far, last = hashXs[n], known[n], last_tx_nums[n]
            if PyBytes_GET_SIZE(hashX) != HASHX_LEN:
                raise ValueError("this is no hashX")
            job.known, job.known_len = NULL, 0
            if so_far is not None:
                job.known = <const uint8_t *> PyBytes_AS_STRING(so_far)
                job.known_len = PyBytes_GET_SIZE(so_far)
            after = last + 1
            job.last = 0
            memcpy(job.key, PyBytes_AS_STRING(hashX), HASHX_LEN)
            for k in range(TXNUM_LEN):
                job.key[HASHX_LEN + k] = after >> (8 * (TXNUM_LEN - 1 - k)) & 255
        with nogil:
            for n in range(count):
                find_records(rows, total, &jobs[n])
        for n in range(count):
            job = &jobs[n]
            if not job.count:
                wholes.append(b"" if job.known == NULL else known[n])
                continue
            if be5(rows + job.first * TOUCH_RECORD_LEN + HASHX_LEN) < first_tx_num or be5(
                rows + (job.first + job.count - 1) * TOUCH_RECORD_LEN + HASHX_LEN
            ) >= limit:
                raise ValueError("a record is of no transaction of these blocks")
            whole = PyBytes_FromStringAndSize(NULL, job.known_len + job.count * HISTORY_ENTRY_LEN)
            job.out = <uint8_t *> PyBytes_AS_STRING(whole)
            wholes.append(whole)
        with nogil:
            for n in range(count):
                extend(&jobs[n], rows, hashes, first_tx_num, <const uint64_t *> ends.data.as_ulonglongs, height)
        for n in range(count):
            job = &jobs[n]
            result.append((
                wholes[n],
                job.last if job.count else last_tx_nums[n],
                (<const uint8_t *> job.status)[:64].decode("ascii")
                if job.known != NULL and job.text_len else None,
                job.text_len if job.known != NULL else 0,
            ))
    finally:
        free(jobs)
    return result


# -- notifications

def render_statuses(tuple parts not None, bytearray records not None, list places not None,
                    list statuses not None):
    """Return lines with script hashes and statuses between the parts, joined."""
    cdef bytes first, middle, last, result
    cdef str status
    cdef Py_ssize_t count = len(places), n, place, length, fixed
    cdef Py_ssize_t end = PyByteArray_GET_SIZE(records) - HASH_LEN
    cdef const uint8_t *hashes = <const uint8_t *> PyByteArray_AS_STRING(records)
    cdef const char *text
    cdef uint8_t *p
    first, middle, last = parts
    if len(statuses) != count:
        raise ValueError("as many of each are needed")
    if not count:
        return b""
    fixed = PyBytes_GET_SIZE(first) + PyBytes_GET_SIZE(middle) + PyBytes_GET_SIZE(last) \
        + 2 * HASH_LEN + 1
    length = count * fixed - 1
    for status in statuses:
        if status is None:
            length += 4
            continue
        PyUnicode_AsUTF8AndSize(status, &place)
        length += place + 2
    result = PyBytes_FromStringAndSize(NULL, length)
    p = <uint8_t *> PyBytes_AS_STRING(result)
    for n in range(count):
        if n:
            p = put_text(p, b"\n", 1)
        place = places[n]
        if not 0 <= place <= end:
            raise ValueError("there is no script hash at this place")
        p = put_text(p, PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first))
        p = put_hash(p, hashes + place)
        p = put_text(p, PyBytes_AS_STRING(middle), PyBytes_GET_SIZE(middle))
        status = statuses[n]
        if status is None:
            p = put_text(p, b"null", 4)
        else:
            text = PyUnicode_AsUTF8AndSize(status, &length)
            p = put_text(p, b'"', 1)
            p = put_text(p, text, length)
            p = put_text(p, b'"', 1)
        p = put_text(p, PyBytes_AS_STRING(last), PyBytes_GET_SIZE(last))
    return result


# -- merkle trees

cdef void hash_level(const uint8_t *level, Py_ssize_t count, uint8_t *out) noexcept nogil:
    """Hash the pairs of a level; an odd last hash pairs with itself."""
    cdef SHA256_CTX context
    cdef Py_ssize_t n
    for n in range(0, count, 2):
        SHA256_Init(&context)
        if n + 1 < count:
            SHA256_Update(&context, level + n * HASH_LEN, 2 * HASH_LEN)
        else:
            SHA256_Update(&context, level + n * HASH_LEN, HASH_LEN)
            SHA256_Update(&context, level + n * HASH_LEN, HASH_LEN)
        finish_twice(&context, out + n // 2 * HASH_LEN)


def merkle_levels(bytes hashes not None):
    """Return the levels above the leaves, root last, as one string."""
    cdef Py_ssize_t count = PyBytes_GET_SIZE(hashes) // HASH_LEN, total = 0, width = count
    cdef const uint8_t *level = <const uint8_t *> PyBytes_AS_STRING(hashes)
    cdef uint8_t *out
    cdef bytes result
    while width > 1:
        width = (width + 1) // 2
        total += width
    result = PyBytes_FromStringAndSize(NULL, total * HASH_LEN)
    out = <uint8_t *> PyBytes_AS_STRING(result)
    with nogil:
        while count > 1:
            hash_level(level, count, out)
            level = out
            count = (count + 1) // 2
            out += count * HASH_LEN
    return result


# -- headers

def hexlify(bytes data not None):
    """Return the bytes as lower-case hex digits."""
    cdef Py_ssize_t count = PyBytes_GET_SIZE(data)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, 2 * count)
    write_hex(
        <const uint8_t *> PyBytes_AS_STRING(data), count, <uint8_t *> PyBytes_AS_STRING(result)
    )
    return result
