# Ends an application's socket whom no segment reaches.
from hooker.includes.hk cimport hk_event

cdef int socket_destroy(const hk_event *est) noexcept nogil        # 0: asked for, or -errno
