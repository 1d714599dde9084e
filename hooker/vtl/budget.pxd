# What peers make us hold, in bytes, and how much of it they may: see budget.pyx.

from libc.stdint cimport uint32_t, uint64_t
from hooker.vtl.api cimport vtl_addr
from hooker.vtl.core cimport Assoc, Endpoint, Stream

cdef enum:
    LEAST_BUDGET = 1 << 16     # bytes
    ASSOC_COST = 8192          # bytes beside its rings and streams: the structure, its tables, and ranges
    KEYS_COST = 8192           # beside, with encryption
    STREAM_COST = 1024         # of one the peer opened, with what the engine keeps of it
    UNDECIDED_SHARE = 4
    MAX_UNDECIDED = 1 << 16    # streams of all peers, neither accepted nor refused yet
    MAX_STRANGERS = 1 << 13
    MAX_SOURCE_STRANGERS = 1 << 8
    FAIR_SOURCES = 256         # the last quarter is divided by so many at least …
    FAIR_STRANGERS = 768       # … and that of strangers


cdef inline uint64_t budget_room(const Assoc *a) noexcept nogil:
    """Bytes its source may make us hold beside what it does: rules 3 and 4."""
    cdef const Endpoint *ep = a.ep
    cdef uint64_t most = ep.budget // 2 if a.stranger else ep.budget
    cdef uint64_t used = ep.strangers_held if a.stranger else ep.held
    cdef uint64_t left = most - used if most > used else 0
    cdef uint64_t share = ep.fair_share[a.stranger]
    if left > most // 4:
        share = max(share, (left - most // 4) >> (3 if a.stranger else 0))
    share = share - a.source.held if share > a.source.held else 0
    return min(share, min(left, ep.budget - ep.held if ep.budget > ep.held else 0))

cdef inline void budget_hold(Assoc *a, uint64_t n) noexcept nogil:
    a.held += n
    a.source.held += n
    a.ep.held += n
    a.ep.held_peak = max(a.ep.held_peak, a.ep.held)
    if a.stranger:
        a.ep.strangers_held += n

cdef inline void budget_let_go(Assoc *a, uint64_t n) noexcept nogil:
    a.held -= n
    a.source.held -= n
    a.ep.held -= n
    if a.stranger:
        a.ep.strangers_held -= n

cdef inline void stream_hold(Stream *s, uint64_t n) noexcept nogil:
    s.held += n
    budget_hold(s.assoc, n)

cdef inline void stream_let_go(Stream *s, uint64_t n) noexcept nogil:
    s.held -= n
    budget_let_go(s.assoc, n)

cdef uint64_t source_hash(const Endpoint *ep, const vtl_addr *peer) noexcept nogil
cdef bint source_join(Assoc *a) noexcept nogil                   # False: no memory
cdef void source_move(Assoc *a) noexcept nogil                   # its address is another one
cdef void source_leave(Assoc *a) noexcept nogil
cdef void sources_grow(Endpoint *ep, uint32_t cap) noexcept nogil
cdef void sources_free(Endpoint *ep) noexcept nogil

cdef void stranger_add(Assoc *a) noexcept nogil                  # the peer began it; it has done nothing of use yet
cdef void stranger_known(Assoc *a) noexcept nogil                # a flow of it was accepted, or we use it ourselves
cdef Assoc *stranger_to_evict(Endpoint *ep, const vtl_addr *peer) noexcept nogil     # NULL: room for one more

cdef bint undecided_room(const Assoc *a) noexcept nogil
cdef void undecided_add(Stream *s) noexcept nogil
cdef void undecided_done(Stream *s) noexcept nogil               # accepted, refused, or gone
