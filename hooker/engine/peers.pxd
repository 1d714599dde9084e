# Associations: what names them in proofs, OPENs that came too early, answers about flows that nobody knows.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.engine.worker cimport early_open, flow, peer, rule_way, worker
from hooker.flow.messages cimport Message
from hooker.transports.contract cimport Association

# An engine, by the transport with that number; 0: the first. NULL: we have none such, or no memory.
cdef Association *reach(worker *w, const rule_way *way, uint8_t wire_id, const uint8_t *ip, uint16_t port) noexcept nogil
cdef peer *peer_of(worker *w, Association *a) noexcept nogil  # NULL: no memory
cdef uint32_t binding_of(const worker *w, const peer *p, bint opener_is_here, uint8_t *out) noexcept nogil   # bytes
cdef void peer_answer(worker *w, peer *p, const Message *m) noexcept nogil    # if the rate allows
cdef void peer_unknown(worker *w, peer *p, const Message *m) noexcept nogil   # a token that no flow has
cdef void early_keep(worker *w, peer *p, const Message *m) noexcept nogil
cdef bint early_take(worker *w, uint64_t locator, Message *m, peer **p) noexcept nogil
cdef void early_free(early_open *o) noexcept nogil
cdef void peer_say(worker *w, flow *f, const Message *m) noexcept nogil       # a message of a flow's
cdef void refuse(worker *w, flow *f, uint64_t position) noexcept nogil        # the local TCP has not taken it
