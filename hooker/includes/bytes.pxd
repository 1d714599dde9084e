# Numbers in network byte order, at any address, and a cursor over bytes that others wrote.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "<endian.h>" nogil:
    uint16_t htobe16(uint16_t)
    uint32_t htobe32(uint32_t)
    uint64_t htobe64(uint64_t)
    uint16_t be16toh(uint16_t)
    uint32_t be32toh(uint32_t)
    uint64_t be64toh(uint64_t)


cdef struct Cursor:
    const uint8_t *p
    size_t n


cdef inline const uint8_t *take(Cursor *c, size_t n) noexcept nogil:
    """The next n bytes, or NULL when fewer are left."""
    cdef const uint8_t *p = c.p
    if n > c.n:
        return NULL
    c.p += n
    c.n -= n
    return p

cdef inline uint16_t load16(const uint8_t *p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return be16toh(v)

cdef inline uint32_t load32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return be32toh(v)

cdef inline uint64_t load64(const uint8_t *p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return be64toh(v)

cdef inline void store16(uint8_t *p, uint16_t v) noexcept nogil:
    v = htobe16(v)
    memcpy(p, &v, 2)

cdef inline void store32(uint8_t *p, uint32_t v) noexcept nogil:
    v = htobe32(v)
    memcpy(p, &v, 4)

cdef inline void store64(uint8_t *p, uint64_t v) noexcept nogil:
    v = htobe64(v)
    memcpy(p, &v, 8)
