# Where flows are found: by a segment's addresses, by tokens, by the locator in OPEN.
from libc.stdint cimport uint32_t, uint64_t
from hooker.engine.worker cimport chain, ends, flow, peer, worker

cdef int index_init(worker *w) noexcept nogil                 # 0, or -1: no memory
cdef void index_free(worker *w) noexcept nogil
cdef bint index_add(worker *w, flow *f, chain kind) noexcept nogil    # False: the chain is full, it will not be found
cdef void index_remove(worker *w, flow *f, chain kind) noexcept nogil
cdef flow *flow_by_tuple(worker *w, const ends *e) noexcept nogil
cdef flow *flow_by_token(worker *w, uint32_t low) noexcept nogil     # the low half: all that a block says
# The low half is enough: what quotes a block has no more.
cdef flow *flow_by_peer_token(worker *w, const peer *p, uint64_t token) noexcept nogil
cdef flow *flow_by_locator(worker *w, uint64_t locator) noexcept nogil
