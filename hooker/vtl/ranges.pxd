# Sets of integers as sorted, disjoint, non-adjacent half-open ranges.

from libc.stdint cimport uint32_t, uint64_t


cdef struct Range:
    uint64_t start
    uint64_t end               # exclusive


cdef struct RangeSet:          # zeroed memory is an empty set
    Range *v                   # ascending
    uint32_t n
    uint32_t cap


# -1: limit or memory, unchanged
cdef int ranges_add(RangeSet *r, uint64_t start, uint64_t end, uint32_t limit) noexcept nogil
cdef bint ranges_contains(const RangeSet *r, uint64_t x) noexcept nogil
# first range that ends beyond x; n: none
cdef uint32_t ranges_find(const RangeSet *r, uint64_t x) noexcept nogil
cdef void ranges_trim(RangeSet *r, uint64_t below) noexcept nogil         # forget everything below
cdef void ranges_clear(RangeSet *r) noexcept nogil                        # empty, memory given back
