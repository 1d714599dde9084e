# Associations of an endpoint: made, found, timed, freed.

from libc.stdint cimport uint64_t
from hooker.vtl.api cimport vtl_addr
from hooker.vtl.core cimport Assoc, Endpoint
from hooker.vtl.reliability.interface cimport reliability_ops

# NULL: limit or memory
cdef Assoc *assoc_new(Endpoint *ep, const vtl_addr *peer, uint64_t cid, uint64_t now) noexcept nogil
cdef void assoc_rekey(Assoc *a, uint64_t cid) noexcept nogil      # another connection id of ours
cdef void assoc_readdress(Assoc *a, const vtl_addr *to) noexcept nogil    # another address of the peer's
cdef void path_forget(Assoc *a) noexcept nogil                    # all it knows of the peer and the path
cdef void assoc_free(Assoc *a) noexcept nogil
cdef Assoc *assoc_by_cid(Endpoint *ep, uint64_t cid) noexcept nogil
# the best for a new stream; of that reliability function, unless it is NULL
cdef Assoc *assoc_to(Endpoint *ep, const vtl_addr *peer, const reliability_ops *function) noexcept nogil
cdef Assoc *assoc_with_peer_cid(Endpoint *ep, const vtl_addr *peer, uint64_t peer_cid,
                                bint initiator) noexcept nogil
# one that has come up, and those the peer began at the same time
cdef void assoc_settle_rivals(Assoc *a, uint64_t now) noexcept nogil
cdef Assoc *assoc_to_evict(Endpoint *ep, const vtl_addr *peer) noexcept nogil   # NULL: room for one more
cdef void assoc_due(Assoc *a, uint64_t deadline) noexcept nogil   # UINT64_MAX: never
cdef uint64_t random_cid(Endpoint *ep) noexcept nogil
