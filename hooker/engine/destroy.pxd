# Ends an application's socket whom no segment reaches.
from hooker.includes.hk cimport hk_event

# A descriptor, or -errno. Made at the start: when sockets are to end, the process may have none left.
cdef int destroyer_open() noexcept nogil
cdef bint socket_destroy(int fd, const hk_event *est) noexcept nogil    # whether it was asked for
