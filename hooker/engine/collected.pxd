# Frames of the redirect socket.
from hooker.engine.worker cimport worker

cdef enum:
    TAG_REDIRECT = 6           # epoll's, beside those of loop.pyx

cdef void collect(worker *w) noexcept nogil         # as far as there are slabs
cdef void collect_arm(worker *w) noexcept nogil     # before the loop waits: only what can be read wakes it
