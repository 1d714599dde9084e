# Flows' segments for the local TCP, written to hk0.
from hooker.engine.worker cimport flow, stretch, worker
from hooker.flow.messages cimport Message

cdef void twin_begin(worker *w, flow *f) noexcept nogil       # with the machine's numbers; F_TWIN if it could
cdef void twin_resume(flow *f) noexcept nogil                  # the same after a rest
cdef void twin_told(worker *w, flow *f) noexcept nogil        # the machine knows more of what the remote TCP has
cdef void is_due(worker *w, flow *f) noexcept nogil           # perhaps an ACK, at the end of the round
cdef void give(worker *w, flow *f, const stretch *r) noexcept nogil
cdef void give_sack(worker *w, flow *f, const Message *m) noexcept nogil     # an ACKED with blocks
cdef void give_probe(worker *w, flow *f, bint byte) noexcept nogil    # byte: answered also soon after another one
cdef void give_nudge(worker *w, flow *f) noexcept nogil       # an ACK of what is acknowledged: it sends what it has
cdef void give_reset(worker *w, flow *f) noexcept nogil
cdef void flush_acks(worker *w) noexcept nogil
