# Who connects to us: see listeners.pyx.

from libc.stdint cimport uint16_t, uint32_t
from hooker.transports.connection cimport ConnectionTransport

cdef enum:
    LISTENERS = 0xFFFFF0       # own tags of theirs, beyond all slots

cdef int listeners_open(ConnectionTransport *t, uint16_t port, uint16_t *bound) noexcept nogil  # 0, or -errno
cdef void listeners_close(ConnectionTransport *t) noexcept nogil
cdef void listen_for(ConnectionTransport *t, uint32_t events) noexcept nogil       # 0: nobody, for a moment
cdef void accept_some(ConnectionTransport *t, int which) noexcept nogil
