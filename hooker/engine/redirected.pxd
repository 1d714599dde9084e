# The engine's end of a flow whose messages come by the redirect socket: it is their TCP. docs/flow.md, 8.7.
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from hooker.engine.worker cimport R_OVER, early_part, flow, lot, redirected, worker
from hooker.flow.messages cimport Message
from hooker.flow.sender cimport SN_FIN, sender_deadline, sender_done

cdef void redirected_start(worker *w, uint64_t budget) noexcept nogil  # bytes that all senders may have
cdef redirected *redirected_new(worker *w, flow *f) noexcept nogil  # NULL: no memory
cdef void redirected_free(worker *w, flow *f) noexcept nogil  # may be without one
cdef void redirected_drop(worker *w, flow *f) noexcept nogil  # the connection was reset
cdef void redirected_socket_gone(flow *f) noexcept nogil  # before its record is another's
cdef void redirected_due(worker *w, flow *f) noexcept nogil  # it has its turn at the end of the round
cdef bint redirected_write(worker *w, flow *f, lot *l, const uint8_t *data, uint32_t n) noexcept nogil
# The same, kept until redirected_meet(); False: not taken.
cdef bint redirected_keep(worker *w, flow *f, lot *l, const uint8_t *data, uint32_t n) noexcept nogil
# The first of what was kept, the caller's to free; NULL: none.
cdef early_part *redirected_meet(flow *f) noexcept nogil
cdef void redirected_send(worker *w, flow *f) noexcept nogil  # what the peer's window and the transport take
cdef void redirected_word(worker *w, flow *f, const Message *m) noexcept nogil  # of its peer, in this epoch
cdef uint64_t redirected_room(const worker *w, const flow *f) noexcept nogil  # bytes of credit that are left
cdef void redirected_note(worker *w, flow *f) noexcept nogil  # to the kernel program: its credit

cdef inline uint64_t redirected_deadline(const flow *f) noexcept nogil:
    return min(sender_deadline(&f.r.s), f.r.retry_at) if f.r != NULL and not f.r.bits & R_OVER else UINT64_MAX

cdef inline bint redirected_lives(const flow *f) noexcept nogil:
    """It has bytes yet, or a FIN, whatever has become of the socket."""
    if f.r == NULL or f.r.bits & R_OVER or sender_done(&f.r.s):
        return False
    return f.r.s.queue.end != f.r.s.queue.acked or f.r.s.bits & SN_FIN
