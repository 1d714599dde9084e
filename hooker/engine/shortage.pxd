# Twins, while there are descriptors and memory for them.
from hooker.includes.hk cimport hk_event
from hooker.engine.worker cimport worker

cdef int twin_made(worker *w, const hk_event *est) noexcept nogil      # its descriptor, or -errno
cdef void shortage_timer(worker *w) noexcept nogil
