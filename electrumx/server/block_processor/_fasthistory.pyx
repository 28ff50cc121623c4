# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The compiled form of the history that is not flushed: records of 16 bytes, hashX and tx_num BE5.

They lie in the order of the chain, and are sorted by script when they are to be written.  What a
flush is to write is *taken* (:meth:`FastHistory.take`) into an array of its own; from then on it may
be sorted and written in one thread while blocks are advanced in another.

Its oracle is ``History.unflushed``, the pure-Python form.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from electrumx.server.block_processor._arrays cimport Array, grow, release
from electrumx.server.block_processor._fastblock cimport HASHX_LEN


cdef enum:
    # records that are sooner sorted by insertion than parted
    FEW_RECORDS = 64


# -- sorting

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


cdef void sort_records(Array *records) noexcept nogil:
    """Sort history by hashX and then tx_num."""
    sort_from(records.data, records.count, 0)


cdef bint copy_sorted(const Array *records, size_t first, Array *found) noexcept nogil:
    """Copy records from the ``first`` on, in order and each once; false if there is no memory."""
    cdef size_t count = records.count - first
    cdef size_t n
    cdef uint8_t *last
    if not count:
        return True
    if not grow(found, RECORD_LEN, count):
        return False
    memcpy(found.data, records.data + RECORD_LEN * first, RECORD_LEN * count)
    found.count = count
    sort_records(found)
    last = found.data
    for n in range(1, count):
        if memcmp(last, found.data + RECORD_LEN * n, RECORD_LEN) != 0:
            last += RECORD_LEN
            memmove(last, found.data + RECORD_LEN * n, RECORD_LEN)
    found.count = (last - found.data) // RECORD_LEN + 1
    return True


# -- history

cdef class FastHistory:
    """History not yet flushed."""

    def __cinit__(self):
        memset(&self.records, 0, sizeof(Array))
        memset(&self.taken_records, 0, sizeof(Array))
        self.taken = False
        self.touched_from = self.written = 0

    def __dealloc__(self):
        release(&self.records)
        release(&self.taken_records)

    def __len__(self):
        """Entries, duplicates within a transaction included."""
        return self.records.count + self.taken_records.count

    @property
    def memsize(self):
        """Bytes taken; room for more is not in memory yet."""
        return len(self) * RECORD_LEN

    def new_records(self):
        """Return the history recorded since this was last called, as ``wire_rows`` has records."""
        cdef Array found
        cdef bint done
        memset(&found, 0, sizeof(Array))
        try:
            with nogil:
                done = copy_sorted(&self.records, self.touched_from, &found)
            if not done:
                raise MemoryError
            result = PyBytes_FromStringAndSize(<char *> found.data, found.count * RECORD_LEN)
        finally:
            release(&found)
        self.touched_from = self.records.count
        return result

    def note(self, bytes hashX not None, uint64_t tx_num):
        """Add one entry of history, for tests."""
        assert len(hashX) == HASHX_LEN
        if not grow(&self.records, RECORD_LEN, 1):
            raise MemoryError
        add_record(&self.records, <const uint8_t *> PyBytes_AS_STRING(hashX), tx_num)

    def hashXs(self):
        """Return the set of hashXs that have history here: what was taken, or else all."""
        cdef Array *records = &self.taken_records if self.taken else &self.records
        cdef size_t n
        return {
            PyBytes_FromStringAndSize(<char *> records.data + RECORD_LEN * n, HASHX_LEN)
            for n in range(records.count)
        }

    def take(self):
        """Take the history for a flush, until :meth:`clear`."""
        assert not self.taken
        self.taken_records = self.records
        memset(&self.records, 0, sizeof(Array))
        self.taken = True
        self.touched_from = self.written = 0

    def sort(self):
        """Order the history by script, to be written; it is taken now, if it was not before."""
        if not self.taken:
            self.take()
        with nogil:
            sort_records(&self.taken_records)
        self.written = 0

    def put_rows(self, put, bytes flush_id not None, size_t max_bytes):
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

    def clear(self):
        """Forget the history taken, which is on disk, and give its memory back."""
        release(&self.taken_records)
        self.taken = False
