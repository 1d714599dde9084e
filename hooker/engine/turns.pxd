# What many flows hear of at once, some at a time.
from hooker.engine.worker cimport peer, worker

cdef void peer_turn(worker *w, peer *p) noexcept nogil        # some flows of it wait; or it is down, and they end
cdef bint turns_due(const worker *w) noexcept nogil
cdef void turns_take(worker *w) noexcept nogil                # one step
cdef void walk_begin(worker *w) noexcept nogil                # of all flows: hk0 is gone, the lane blocked, or the engine stops
cdef void turns_free(worker *w) noexcept nogil                # the flows are freed
