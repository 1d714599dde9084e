# The engine's end of a flow whose messages come by the redirect socket: it is their TCP. docs/flow.md, 8.7.
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from hooker.engine.worker cimport flow, lot, redirected, worker
from hooker.flow.joined cimport J_OVER, Turns, joined_got, joined_lives
from hooker.flow.messages cimport Message
from hooker.flow.sender cimport sender_deadline

cdef void redirected_start(worker *w, uint64_t budget) noexcept nogil  # bytes that all senders may have
cdef redirected *redirected_new(worker *w, flow *f) noexcept nogil  # NULL: no memory
cdef void redirected_free(worker *w, flow *f) noexcept nogil  # may be without one
cdef void redirected_drop(worker *w, flow *f) noexcept nogil  # the connection was reset
cdef void redirected_socket_gone(worker *w, flow *f) noexcept nogil  # before its record is another's
cdef void redirected_due(worker *w, flow *f) noexcept nogil  # it has its turn at the end of the round
cdef void redirected_turns(flow *f, Turns *t) noexcept nogil  # what its record says now
# Of the redirect socket; `l` NULL: there is no memory for it.
cdef void redirected_frame(worker *w, flow *f, lot *l, const uint8_t *data, uint32_t n) noexcept nogil
# Of the local TCP, in order.
cdef joined_got redirected_take(worker *w, flow *f, const Turns *t, lot *l, const uint8_t *data,
                                uint32_t n) noexcept nogil
cdef void redirected_send(worker *w, flow *f) noexcept nogil  # what the peer's window and the transport take
cdef void redirected_word(worker *w, flow *f, const Message *m) noexcept nogil  # of its peer, in this epoch
cdef uint64_t redirected_room(const worker *w, const flow *f) noexcept nogil  # bytes of credit that are left
cdef void redirected_note(worker *w, flow *f) noexcept nogil  # to the kernel program: its credit

cdef inline uint64_t redirected_deadline(const flow *f) noexcept nogil:
    if f.r == NULL or f.r.j.bits & J_OVER:
        return UINT64_MAX
    return min(sender_deadline(&f.r.j.s), f.r.retry_at)

cdef inline bint redirected_lives(const flow *f) noexcept nogil:
    return f.r != NULL and joined_lives(&f.r.j)
