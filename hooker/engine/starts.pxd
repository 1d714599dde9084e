# How many clients' flows are on their way to be engaged at once.
from hooker.engine.worker cimport flow, worker

cdef bint start_waits(worker *w, flow *f) noexcept nogil      # who is about to ask; True: not before its turn
cdef void start_note(worker *w, flow *f) noexcept nogil       # its state has changed, or it is over
cdef flow *start_next(worker *w) noexcept nogil               # of those that wait; NULL: it is nobody's turn
cdef bint starts_due(const worker *w) noexcept nogil          # there is one
cdef void starts_free(worker *w) noexcept nogil
