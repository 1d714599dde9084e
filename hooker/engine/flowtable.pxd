# Where flows are kept.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from hooker.includes.hk cimport hk_event
from hooker.vtl.api cimport vtl_open_info, vtl_stream
from hooker.vtl.siphash cimport siphash24
from hooker.engine.worker cimport flow, worker

cdef inline uint64_t scattered(const worker *w, uint64_t chosen) noexcept nogil:
    """What a peer chose, so that it does not choose the bucket."""
    return siphash24(w.scatter, <const uint8_t *>&chosen, sizeof(chosen))

cdef int flows_init(worker *w) noexcept nogil                         # 0, or -1: no memory
cdef void flows_free(worker *w) noexcept nogil
cdef flow *new_flow(worker *w, const hk_event *e) noexcept nogil      # held; NULL: no memory, or the slot is taken
cdef flow *flow_by_id(worker *w, uint64_t id) noexcept nogil
cdef flow *flow_by_locator(worker *w, uint64_t locator) noexcept nogil    # a server's flow
# whether who opened that stream has seen the flow's handshake
cdef bint flow_proven(const flow *f, vtl_stream *s, const vtl_open_info *info) noexcept nogil
cdef void held_remove(worker *w, flow *f) noexcept nogil
cdef void flow_arm(worker *w, flow *f) noexcept nogil                 # after one of its times was set
cdef void give_slot_back(worker *w, uint64_t id) noexcept nogil
cdef void maybe_done(worker *w, flow *f) noexcept nogil               # look at it between rounds
cdef void flows_reap(worker *w) noexcept nogil
cdef void tell(worker *w, flow *f, uint8_t kind) noexcept nogil       # Python, of an event
