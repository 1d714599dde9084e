# Services whose segments do not come through hk0, though the lane is open.
from libc.stdint cimport uint64_t
from hooker.engine.worker cimport cut, flow, worker

cdef void cut_try(worker *w, const flow *f) noexcept nogil            # it is about to be engaged
cdef bint cut_note(worker *w, const flow *f) noexcept nogil           # marked; True: it waited in vain
cdef void cut_learn(worker *w, const flow *f) noexcept nogil          # it is cut off
cdef void cut_over(worker *w, const flow *f) noexcept nogil           # they do
cdef uint64_t cut_until(worker *w, const flow *f) noexcept nogil      # 0: it is not
cdef cut *cut_of(worker *w, cut *table, const flow *f, bint take) noexcept nogil    # its service's
