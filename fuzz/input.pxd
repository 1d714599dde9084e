# The fuzzer's bytes, read as numbers. After their end everything reads as 0.

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef struct Input:
    const uint8_t *p
    size_t n


cdef inline uint8_t next8(Input *i) noexcept nogil:
    if i.n == 0:
        return 0
    i.p += 1
    i.n -= 1
    return (i.p - 1)[0]

cdef inline uint16_t next16(Input *i) noexcept nogil:
    cdef uint16_t high = next8(i)
    return <uint16_t>(high << 8 | next8(i))

cdef inline uint32_t next32(Input *i) noexcept nogil:
    cdef uint32_t high = next16(i)
    return high << 16 | next16(i)
