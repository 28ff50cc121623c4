"""Growing arrays of items of one length, for the Cython modules.

An array of zero bytes is empty; its owner releases it.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc


cdef struct Array:
    uint8_t *data
    # items in use, and allocated
    size_t count
    size_t room


cdef inline bint grow(Array *array, size_t item_len, size_t more) noexcept nogil:
    """Allocate room for ``more`` items; return false without memory."""
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
