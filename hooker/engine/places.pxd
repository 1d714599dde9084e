# Places of one size in pages: memory only for as many as are used, wherever those lie that were given back.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef struct place_room:
    uint8_t *memory
    uint16_t *unused           # of each page, which places are
    uint8_t *held              # whether it has memory of the system's
    uint32_t place             # bytes
    uint32_t in_page           # places, 16 at most: a bit of `unused` each
    uint32_t pages
    uint32_t group             # of them in one page of the kernel's
    uint32_t first             # in no page below is a place unused
    uint32_t top               # no page from here on has memory
    uint32_t empty             # pages that have memory and no place in use

# 0, or -1: no memory. `place`: bytes, a multiple of 8; `page`: bytes of a page of the kernel's.
cdef int places_init(place_room *r, uint32_t places, uint32_t place, uint32_t page) noexcept nogil
cdef void places_free(place_room *r) noexcept nogil
cdef void *place_take(place_room *r) noexcept nogil                   # zeroed; NULL: all are in use
cdef void place_give(place_room *r, void *place) noexcept nogil
cdef bint places_wait(const place_room *r) noexcept nogil             # many pages are empty
# They go back to the system, if they are many.
cdef void places_trim(place_room *r) noexcept nogil
