# SipHash-2-4 (Aumasson and Bernstein, 2012): the keyed hash of tables whose keys peers choose, of cookies.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef extern from "<endian.h>" nogil:
    uint64_t le64toh(uint64_t)


cdef inline uint64_t siphash_rotl(uint64_t x, int b) noexcept nogil:
    return (x << b) | (x >> (64 - b))


cdef inline void siphash_rounds(uint64_t *v, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        v[0] += v[1]
        v[1] = siphash_rotl(v[1], 13) ^ v[0]
        v[0] = siphash_rotl(v[0], 32)
        v[2] += v[3]
        v[3] = siphash_rotl(v[3], 16) ^ v[2]
        v[0] += v[3]
        v[3] = siphash_rotl(v[3], 21) ^ v[0]
        v[2] += v[1]
        v[1] = siphash_rotl(v[1], 17) ^ v[2]
        v[2] = siphash_rotl(v[2], 32)


cdef inline uint64_t siphash24(const uint64_t *key, const uint8_t *data, size_t n) noexcept nogil:
    cdef uint64_t v[4]
    cdef uint64_t m
    cdef size_t left = n
    v[0] = key[0] ^ <uint64_t>0x736f6d6570736575
    v[1] = key[1] ^ <uint64_t>0x646f72616e646f6d
    v[2] = key[0] ^ <uint64_t>0x6c7967656e657261
    v[3] = key[1] ^ <uint64_t>0x7465646279746573
    while left >= 8:
        memcpy(&m, data, 8)
        m = le64toh(m)
        v[3] ^= m
        siphash_rounds(v, 2)
        v[0] ^= m
        data += 8
        left -= 8
    m = 0
    memcpy(&m, data, left)
    m = le64toh(m) | (<uint64_t>(n & 255) << 56)
    v[3] ^= m
    siphash_rounds(v, 2)
    v[0] ^= m
    v[2] ^= 255
    siphash_rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]
