# What may be done so many times in a second, and so many at once: a token bucket. Zeroed, it is full.
from libc.stdint cimport uint64_t

cdef struct Bucket:
    double tokens
    uint64_t at                # ns: when these were counted

cdef inline bint bucket_take(Bucket *b, uint64_t now, int rate, int burst) noexcept nogil:
    """rate: per second."""
    b.tokens = min(b.tokens + <double>(now - b.at) * rate / 1e9, <double>burst) if b.at else burst
    b.at = now
    if b.tokens < 1:
        return False
    b.tokens -= 1
    return True
