from libc.stdint cimport uint8_t, uint64_t

cdef uint64_t siphash24(const uint64_t *key, const uint8_t *data, size_t n) noexcept nogil
