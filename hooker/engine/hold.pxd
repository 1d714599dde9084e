# Flows whose payload the kernel keeps back: until they are engaged, given up, or for good.
from libc.stdint cimport uint64_t
from hooker.engine.worker cimport flow, worker

cdef void hold_begin(worker *w, flow *f) noexcept nogil       # a new flow
cdef void hold_ack_again(worker *w, flow *f) noexcept nogil
cdef uint64_t hold_again(const worker *w, const flow *f) noexcept nogil      # when that is due; UINT64_MAX: never
cdef uint64_t hold_deadline(const worker *w, const flow *f) noexcept nogil    # UINT64_MAX: none
cdef void hold_release(worker *w, flow *f) noexcept nogil     # it is on TCP
cdef bint hold_missed(const worker *w, const flow *f) noexcept nogil    # its handshake's last ACK has not come through hk0
cdef bint hold_unanswered(const worker *w, const flow *f) noexcept nogil    # nor what its socket was asked to say
cdef void hold_pin(worker *w, flow *f) noexcept nogil         # with a key: the peer may have bytes of it from now on
cdef void hold_unpin(worker *w, flow *f) noexcept nogil       # its peer leaves, and so was never pinned
cdef uint64_t hold_failed(worker *w, const flow *f) noexcept nogil    # ns: until then its service is not asked again
cdef void hold_engaged(worker *w, flow *f) noexcept nogil     # its twin has begun
cdef bint is_withheld(const flow *f) noexcept nogil           # no payload of it goes to the wire
