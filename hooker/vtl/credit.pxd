# Receive windows that grow to what the path and the application take: 4 times the bytes consumed in a round
# trip, as Linux's dynamic right-sizing and the QUIC stacks do. A window never shrinks.

from libc.stdint cimport uint64_t

cdef struct Credit:
    uint64_t window            # bytes a peer may send ahead of what is consumed
    uint64_t since             # ns; the measurement at hand began …
    uint64_t consumed          # … with so many bytes since


cdef inline bint credit_measure(Credit *c, uint64_t n, uint64_t rtt, uint64_t now) noexcept nogil:
    """n more bytes were consumed: True if the window is less than 4 round trips of that rate."""
    cdef uint64_t span = now - c.since
    c.consumed += n
    if span < rtt:
        return False
    n = c.consumed
    c.consumed = 0
    c.since = now
    return 4 * <double>n * <double>rtt >= <double>c.window * <double>span
