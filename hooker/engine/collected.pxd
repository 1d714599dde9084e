# Frames of the redirect socket.
from hooker.engine.worker cimport flow, worker

cdef enum:
    TAG_REDIRECT = 6           # epoll's, beside those of loop.pyx

cdef void collect(worker *w) noexcept nogil         # as far as there are slabs
cdef bint has_turn(const flow *f) noexcept nogil    # all is here that comes before what its TCP has
cdef bint collected_all(const flow *f) noexcept nogil   # all that was ever redirected of it
cdef void collect_arm(worker *w) noexcept nogil     # before the loop waits: only what can be read wakes it
