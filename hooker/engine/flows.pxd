# A flow's life: made, found a peer's engine for, closed, forgotten.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.engine.worker cimport flow, peer, shown_as, rule_way, worker
from hooker.includes.hk cimport hk_event, hk_key

cdef int flows_init(worker *w) noexcept nogil                 # 0, or -1: no memory
cdef void flows_free(worker *w) noexcept nogil
cdef flow *flow_new(worker *w, const hk_event *e) noexcept nogil      # NULL: no memory, or the slot is taken
cdef flow *flow_by_id(worker *w, uint64_t id) noexcept nogil
cdef flow *flow_at(worker *w, const hk_key *key) noexcept nogil  # with these addresses; NULL: none
cdef void slot_strays(worker *w, uint32_t slot) noexcept nogil # its connection is no flow
cdef void slot_back(worker *w, uint64_t id) noexcept nogil
cdef void flow_socket_gone(worker *w, flow *f) noexcept nogil # its slot goes back; the flow is remembered for a while
cdef void flow_over(worker *w, flow *f) noexcept nogil        # it is freed between rounds
cdef void flows_reap(worker *w) noexcept nogil
cdef const rule_way *flow_rule(const worker *w, const flow *f) noexcept nogil
cdef uint8_t flow_transport(const flow *f) noexcept nogil      # the number of the one that was selected for it; 0: none
cdef void flow_join(worker *w, flow *f, peer *p) noexcept nogil
cdef void flow_part(worker *w, flow *f) noexcept nogil        # from its association; the channel goes
cdef void flow_reindex(worker *w, flow *f, uint64_t before) noexcept nogil    # its peer's token was `before`
cdef void flow_touch(worker *w, flow *f) noexcept nogil       # its deadlines may have changed
cdef void flow_left(flow *f) noexcept nogil                   # its socket has its own congestion control again
cdef void flow_report(worker *w, flow *f, int why) noexcept nogil     # it stays on TCP, or has left, or has ended
# addresses as the programs and Python have them, IPv4 as ::ffff:a.b.c.d
cdef void remote_ip(const flow *f, uint8_t *out) noexcept nogil
cdef void flow_key_of(const flow *f, hk_key *out) noexcept nogil
cdef shown_as shown_state(const flow *f) noexcept nogil
cdef void tell(worker *w, flow *f, int kind) noexcept nogil
# of bytes that came as zeros; position: in 64 bits, as the twin has it
cdef void tell_hole(worker *w, flow *f, uint64_t position, uint64_t n) noexcept nogil
cdef void tell_lane(worker *w, uint8_t version, int kind) noexcept nogil
cdef void abort_socket(worker *w, const flow *f) noexcept nogil        # its application's
