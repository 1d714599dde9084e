# The one clock: monotonic, in nanoseconds.
from libc.stdint cimport uint64_t
from hooker.includes.linux cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef inline uint64_t clock_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + t.tv_nsec
