from libc.stdint cimport uint64_t
from hooker.vtl.api cimport vtl_addr, vtl_batch
from hooker.vtl.core cimport Assoc
from hooker.vtl.wire cimport Cursor, Header

cdef inline uint64_t largest_received(const Assoc *a) noexcept nogil:      # packet number; 0: none
    return a.received.v[a.received.n - 1].end - 1 if a.received.n > 0 else 0

# A good packet has come from elsewhere, with so many bytes; newest: of all, and not there only to probe.
cdef void path_seen(Assoc *a, const vtl_addr *src, uint64_t pn, size_t n, bint newest, uint64_t now) noexcept nogil
cdef void path_on_challenge(Assoc *a, uint64_t data) noexcept nogil
cdef void path_on_response(Assoc *a, uint64_t data, uint64_t now) noexcept nogil
cdef void path_on_timer(Assoc *a, uint64_t now) noexcept nogil
