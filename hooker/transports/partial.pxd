# What of a message has come before the rest of it: it grows as its bytes come, out of its source's share.
# False: it has failed, and the connection with it.

from libc.stdint cimport uint8_t, uint32_t
from hooker.transports.connection cimport Connection

cdef bint partial_set(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil
cdef bint partial_add(Connection *a, const uint8_t *p, uint32_t n) noexcept nogil
cdef void partial_end(Connection *a) noexcept nogil
