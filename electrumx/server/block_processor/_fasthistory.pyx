# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Unflushed history in Cython: records of 16 bytes, hashX and tx_num BE5.

They are in chain order; a flush sorts them by script, then writes them.  It writes *frozen* records
(:meth:`FastHistory.freeze`), which are in an array of their own; from then on one thread may sort
and write them while another advances blocks.

The reference implementation is ``History.unflushed``.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from electrumx.server.block_processor._arrays cimport Array, grow, release
from electrumx.server.storage._layout cimport HASHX_LEN, HIST_KEY_LEN, TOUCH_RECORD_LEN, TXNUM_LEN


cdef enum:
    # records up to which sorting by insertion is faster than by radix
    FEW_RECORDS = 64


# -- sorting

cdef inline uint64_t load8_be(const uint8_t *p) noexcept nogil:
    return (<uint64_t> p[0] << 56 | <uint64_t> p[1] << 48 | <uint64_t> p[2] << 40
            | <uint64_t> p[3] << 32 | <uint64_t> p[4] << 24 | <uint64_t> p[5] << 16
            | <uint64_t> p[6] << 8 | <uint64_t> p[7])


cdef void insert_in_order(uint8_t *data, size_t count) noexcept nogil:
    """Sort a few records by insertion."""
    cdef uint8_t record[TOUCH_RECORD_LEN]
    cdef uint64_t high, low, other
    cdef size_t n, at
    for n in range(1, count):
        high = load8_be(data + TOUCH_RECORD_LEN * n)
        low = load8_be(data + TOUCH_RECORD_LEN * n + 8)
        at = n
        while at:
            other = load8_be(data + TOUCH_RECORD_LEN * (at - 1))
            if other < high or (
                    other == high and load8_be(data + TOUCH_RECORD_LEN * (at - 1) + 8) <= low):
                break
            at -= 1
        if at < n:
            memcpy(record, data + TOUCH_RECORD_LEN * n, TOUCH_RECORD_LEN)
            memmove(data + TOUCH_RECORD_LEN * (at + 1), data + TOUCH_RECORD_LEN * at, TOUCH_RECORD_LEN * (n - at))
            memcpy(data + TOUCH_RECORD_LEN * at, record, TOUCH_RECORD_LEN)


cdef void sort_from(uint8_t *data, size_t count, int at) noexcept nogil:
    """Sort records that agree in all bytes before ``at``, in place (American flag sort).

    One byte partitions them, the next one the partitions: whatever hashes an attacker
    makes, there are no more passes than bytes.
    """
    cdef size_t ends[256]
    cdef size_t places[256]
    cdef uint8_t held[TOUCH_RECORD_LEN]
    cdef uint8_t other[TOUCH_RECORD_LEN]
    cdef size_t n, place
    cdef int digit
    if count <= FEW_RECORDS:
        insert_in_order(data, count)
        return
    memset(ends, 0, sizeof(ends))
    for n in range(count):
        ends[data[TOUCH_RECORD_LEN * n + at]] += 1
    place = 0
    for digit in range(256):
        places[digit] = place
        place += ends[digit]
        ends[digit] = place
    # Move each record that is out of place to its partition, the one there to its own, and so on,
    # until one fills the hole.
    for digit in range(256):
        while places[digit] < ends[digit]:
            memcpy(held, data + TOUCH_RECORD_LEN * places[digit], TOUCH_RECORD_LEN)
            while held[at] != digit:
                place = places[held[at]]
                places[held[at]] += 1
                memcpy(other, data + TOUCH_RECORD_LEN * place, TOUCH_RECORD_LEN)
                memcpy(data + TOUCH_RECORD_LEN * place, held, TOUCH_RECORD_LEN)
                memcpy(held, other, TOUCH_RECORD_LEN)
            memcpy(data + TOUCH_RECORD_LEN * places[digit], held, TOUCH_RECORD_LEN)
            places[digit] += 1
    if at + 1 == TOUCH_RECORD_LEN:
        return
    place = 0
    for digit in range(256):
        if ends[digit] - place > 1:
            sort_from(data + TOUCH_RECORD_LEN * place, ends[digit] - place, at + 1)
        place = ends[digit]


cdef void sort_records(Array *records) noexcept nogil:
    """Sort history by hashX and then tx_num."""
    sort_from(records.data, records.count, 0)


cdef bint copy_sorted(const Array *records, size_t first, Array *found) noexcept nogil:
    """Copy records from the ``first`` on, sorted and without duplicates; return false without memory."""
    cdef size_t count = records.count - first
    cdef size_t n
    cdef uint8_t *last
    if not count:
        return True
    if not grow(found, TOUCH_RECORD_LEN, count):
        return False
    memcpy(found.data, records.data + TOUCH_RECORD_LEN * first, TOUCH_RECORD_LEN * count)
    found.count = count
    sort_records(found)
    last = found.data
    for n in range(1, count):
        if memcmp(last, found.data + TOUCH_RECORD_LEN * n, TOUCH_RECORD_LEN) != 0:
            last += TOUCH_RECORD_LEN
            memmove(last, found.data + TOUCH_RECORD_LEN * n, TOUCH_RECORD_LEN)
    found.count = (last - found.data) // TOUCH_RECORD_LEN + 1
    return True


# -- history

cdef class FastHistory:
    """History not yet flushed."""

    def __cinit__(self):
        memset(&self.records, 0, sizeof(Array))
        memset(&self.frozen_records, 0, sizeof(Array))
        self.frozen = False
        self.touched_from = self.written = 0

    def __dealloc__(self):
        release(&self.records)
        release(&self.frozen_records)

    def __len__(self):
        """The number of records, duplicates within a transaction included."""
        return self.records.count + self.frozen_records.count

    @property
    def memsize(self):
        """Bytes taken; memory allocated beyond that is not resident yet."""
        return len(self) * TOUCH_RECORD_LEN

    def new_records(self):
        """Return the records added since the last call, sorted, as ``wire_rows`` has them."""
        cdef Array found
        cdef bint done
        memset(&found, 0, sizeof(Array))
        try:
            with nogil:
                done = copy_sorted(&self.records, self.touched_from, &found)
            if not done:
                raise MemoryError
            result = PyBytes_FromStringAndSize(<char *> found.data, found.count * TOUCH_RECORD_LEN)
        finally:
            release(&found)
        self.touched_from = self.records.count
        return result

    def note(self, bytes hashX not None, uint64_t tx_num):
        """Add one record, for tests."""
        assert len(hashX) == HASHX_LEN
        if not grow(&self.records, TOUCH_RECORD_LEN, 1):
            raise MemoryError
        add_record(&self.records, <const uint8_t *> PyBytes_AS_STRING(hashX), tx_num)

    def hashXs(self):
        """Return the hashXs in the frozen history if there is one, else in all."""
        cdef Array *records = &self.frozen_records if self.frozen else &self.records
        cdef size_t n
        return {
            PyBytes_FromStringAndSize(<char *> records.data + TOUCH_RECORD_LEN * n, HASHX_LEN)
            for n in range(records.count)
        }

    def freeze(self):
        """Freeze the history for a flush, until :meth:`clear`."""
        assert not self.frozen
        self.frozen_records = self.records
        memset(&self.records, 0, sizeof(Array))
        self.frozen = True
        self.touched_from = self.written = 0

    def sort(self):
        """Sort the history by script, for its write; freeze it first if it is not."""
        if not self.frozen:
            self.freeze()
        with nogil:
            sort_records(&self.frozen_records)
        self.written = 0

    @property
    def frozen_count(self):
        """The number of records in the frozen history."""
        return self.frozen_records.count

    def packed_hashXs(self, size_t first, size_t most):
        """Return the hashXs in the sorted frozen history, each once, joined.

        Those of which the first record is among ``most`` records from number ``first`` on.
        """
        cdef uint8_t *data = self.frozen_records.data
        cdef size_t end = min(self.frozen_records.count, first + most)
        cdef size_t n
        cdef size_t records = end - first if end > first else 0
        cdef bytes room = PyBytes_FromStringAndSize(NULL, records * HASHX_LEN)
        cdef uint8_t *start = <uint8_t *> PyBytes_AS_STRING(room)
        cdef uint8_t *out = start
        with nogil:
            for n in range(first, end):
                if not n or memcmp(data + TOUCH_RECORD_LEN * n, data + TOUCH_RECORD_LEN * (n - 1),
                                   HASHX_LEN) != 0:
                    memcpy(out, data + TOUCH_RECORD_LEN * n, HASHX_LEN)
                    out += HASHX_LEN
        return room[:out - start]

    def put_rows(self, put, bytes flush_id not None, size_t max_bytes):
        """Call ``put(hashX + flush_id, row)`` for scripts, in key order, for ``max_bytes`` or more.

        Continue where the last call stopped.  Return the number of scripts; 0 at the end.
        """
        cdef size_t n = self.written
        cdef size_t count = self.frozen_records.count
        cdef size_t scripts = 0
        cdef size_t size = 0
        cdef size_t last, kept
        cdef uint8_t *data = self.frozen_records.data
        cdef uint8_t *row
        cdef uint8_t *at
        cdef int k
        while n < count and size < max_bytes:
            last = n + 1
            kept = 1
            while last < count and memcmp(data + TOUCH_RECORD_LEN * last, data + TOUCH_RECORD_LEN * n,
                                          HASHX_LEN) == 0:
                if memcmp(data + TOUCH_RECORD_LEN * last, data + TOUCH_RECORD_LEN * (last - 1),
                          TOUCH_RECORD_LEN) != 0:
                    kept += 1
                last += 1
            value = PyBytes_FromStringAndSize(NULL, kept * TXNUM_LEN)
            row = <uint8_t *> PyBytes_AS_STRING(value)
            key = PyBytes_FromStringAndSize(<char *> data + TOUCH_RECORD_LEN * n, HASHX_LEN) + flush_id
            at = data + TOUCH_RECORD_LEN * n
            while True:
                for k in range(TXNUM_LEN):
                    row[k] = at[TOUCH_RECORD_LEN - 1 - k]
                row += TXNUM_LEN
                n += 1
                while n < last and memcmp(data + TOUCH_RECORD_LEN * n, at, TOUCH_RECORD_LEN) == 0:
                    n += 1
                if n == last:
                    break
                at = data + TOUCH_RECORD_LEN * n
            put(key, value)
            size += kept * TXNUM_LEN + HIST_KEY_LEN
            scripts += 1
        self.written = n
        return scripts

    def clear(self):
        """Free the frozen history, which is on disk."""
        release(&self.frozen_records)
        self.frozen = False
