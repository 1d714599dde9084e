# Whether marked segments reach a twin on this host.
from libc.stdint cimport uint64_t
from hooker.engine.worker cimport flow, worker

cdef bint twin_reached(worker *w, flow *f) noexcept nogil          # before there is no way back
cdef uint64_t twin_first_look(const worker *w) noexcept nogil      # when to look again after it
cdef bint twin_cut_off(worker *w, flow *f) noexcept nogil          # True: it never was reached; else look_at is the next look
