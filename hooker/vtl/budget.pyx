"""One budget for the memory that peers make an endpoint hold, by source and in all.

1. A *source* is an IPv4 address or an IPv6 /64: who has one has all its ports. Associations belong to one.
2. Counted: associations, their packet rings, streams the peer opened, bytes out of order (whole pages), and bytes handed
   to the engine that the application has not taken yet, and control messages that it has not acknowledged. Not counted: what
   our own applications send; what the engine holds of that for a source it counts here, too (vtl_take), and bounds itself.
3. Three quarters of the budget are for whoever asks: a source may hold as much as is left of them to all. The last quarter is divided
   equally by the sources there are, but at least 256 (768 strangers), so what some hold leaves others their fair share.
4. A *stranger* is an association that the peer began and of which no flow was accepted yet. Strangers together may hold half of the
   budget, of which rule 3 is true in turn; one source an eighth of what is left. Beyond a number, or seven eighths of their part, the oldest
   makes room for the next.
5. What exceeds this is dropped and not acknowledged: the sender repeats it, as it would behind a full queue.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from hooker.includes.ip cimport is_v4
from hooker.vtl.api cimport VTL_TAKES
from hooker.vtl.core cimport *
from hooker.includes.siphash cimport siphash24


cdef void prefix_of(const vtl_addr *peer, uint8_t *out) noexcept nogil:
    memset(out, 0, 16)
    memcpy(out, peer.ip, 16 if is_v4(peer.ip) else 8)


cdef inline Source **place(const Endpoint *ep, const uint8_t *prefix) noexcept nogil:
    return &ep.source_table[siphash24(ep.secret, prefix, 16) & (ep.source_cap - 1)]


cdef uint64_t source_hash(const Endpoint *ep, const vtl_addr *peer) noexcept nogil:
    cdef uint8_t prefix[16]
    prefix_of(peer, prefix)
    return siphash24(ep.secret, prefix, 16)


cdef Source *find(const Endpoint *ep, const uint8_t *prefix) noexcept nogil:
    cdef Source *s
    if ep.source_cap == 0:
        return NULL
    s = place(ep, prefix)[0]
    while s != NULL and memcmp(s.prefix, prefix, 16) != 0:
        s = s.next
    return s


cdef void sources_grow(Endpoint *ep, uint32_t cap) noexcept nogil:
    """Without memory the chains are longer, that is all."""
    cdef Source **old = ep.source_table
    cdef uint32_t n = ep.source_cap, i
    cdef Source **to
    cdef Source *s
    cdef Source *next
    cdef Source **table = <Source **>calloc(cap, sizeof(Source *))
    if table == NULL:
        return
    ep.source_table = table
    ep.source_cap = cap
    for i in range(n):
        s = old[i]
        while s != NULL:
            next = s.next
            to = place(ep, s.prefix)
            s.next = to[0]
            to[0] = s
            s = next
    free(old)


cdef void sources_free(Endpoint *ep) noexcept nogil:
    free(ep.source_table)                       # the sources went with their associations


cdef void count_source(Endpoint *ep, bint strangers, int more) noexcept nogil:
    ep.sources[strangers] += more
    if strangers:
        ep.fair_share[1] = ep.budget // 8 // max(ep.sources[1], <uint32_t>FAIR_STRANGERS)
    else:
        ep.fair_share[0] = ep.budget // 4 // max(ep.sources[0], <uint32_t>FAIR_SOURCES)


cdef void enlist(Assoc *a) noexcept nogil:
    """At the young end of its source's strangers."""
    cdef Source *s = a.source
    a.next_source = NULL
    a.prev_source = s.newest
    if s.newest != NULL:
        s.newest.next_source = a
    else:
        s.oldest = a
    s.newest = a
    s.strangers += 1
    if s.strangers == 1:
        count_source(a.ep, True, 1)


cdef void delist(Assoc *a) noexcept nogil:
    cdef Source *s = a.source
    if a.prev_source != NULL:
        a.prev_source.next_source = a.next_source
    else:
        s.oldest = a.next_source
    if a.next_source != NULL:
        a.next_source.prev_source = a.prev_source
    else:
        s.newest = a.prev_source
    s.strangers -= 1
    if s.strangers == 0:
        count_source(a.ep, True, -1)


cdef inline void count_known(Assoc *a, int more) noexcept nogil:
    """One more, or fewer, of its source's associations that are no strangers."""
    if a.source.assocs - a.source.strangers == (1 if more > 0 else 0):
        count_source(a.ep, False, more)


cdef Source *source_of(Endpoint *ep, const vtl_addr *peer) noexcept nogil:
    """That of the address, made if need be; NULL: no memory."""
    cdef uint8_t prefix[16]
    cdef Source **to
    cdef Source *s
    prefix_of(peer, prefix)
    s = find(ep, prefix)
    if s == NULL and ep.source_cap > 0:
        s = <Source *>calloc(1, sizeof(Source))
        if s != NULL:
            memcpy(s.prefix, prefix, 16)
            to = place(ep, prefix)
            s.next = to[0]
            to[0] = s
    return s


cdef void attach(Assoc *a, Source *s) noexcept nogil:
    cdef int i
    for i in range(VTL_TAKES):
        s.taken[i] += a.taken[i]
    s.assocs += 1
    s.held += a.held
    s.undecided += a.undecided
    a.source = s
    if a.stranger:
        enlist(a)
    else:
        count_known(a, 1)


cdef bint source_join(Assoc *a) noexcept nogil:
    cdef Source *s = source_of(a.ep, &a.peer)
    if s != NULL:
        attach(a, s)
    return s != NULL


cdef void source_move(Assoc *a) noexcept nogil:
    cdef Source *s = source_of(a.ep, &a.peer)
    if s != NULL and s != a.source:             # no memory: it stays with the old one
        source_leave(a)
        attach(a, s)


cdef void source_leave(Assoc *a) noexcept nogil:
    cdef Source *s = a.source
    cdef Source **p
    cdef int i
    if a.stranger:
        delist(a)
    for i in range(VTL_TAKES):
        s.taken[i] -= a.taken[i]
    s.assocs -= 1
    if not a.stranger:
        count_known(a, -1)
    s.held -= a.held
    s.undecided -= a.undecided
    if s.assocs > 0:
        return
    p = place(a.ep, s.prefix)
    while p[0] != s:
        p = &p[0].next
    p[0] = s.next
    free(s)


# --- strangers

cdef void stranger_add(Assoc *a) noexcept nogil:
    cdef Endpoint *ep = a.ep
    a.stranger = True
    enlist(a)
    count_known(a, -1)
    a.next_stranger = NULL
    a.prev_stranger = ep.newest_stranger
    if ep.newest_stranger != NULL:
        ep.newest_stranger.next_stranger = a
    else:
        ep.oldest_stranger = a
    ep.newest_stranger = a
    ep.strangers += 1
    ep.strangers_held += a.held


cdef void stranger_known(Assoc *a) noexcept nogil:
    cdef Endpoint *ep = a.ep
    if not a.stranger:
        return
    delist(a)
    a.stranger = False
    count_known(a, 1)
    if a.prev_stranger != NULL:
        a.prev_stranger.next_stranger = a.next_stranger
    else:
        ep.oldest_stranger = a.next_stranger
    if a.next_stranger != NULL:
        a.next_stranger.prev_stranger = a.prev_stranger
    else:
        ep.newest_stranger = a.prev_stranger
    ep.strangers -= 1
    ep.strangers_held -= a.held


cdef Assoc *stranger_to_evict(Endpoint *ep, const vtl_addr *peer) noexcept nogil:
    cdef uint8_t prefix[16]
    cdef Source *s
    prefix_of(peer, prefix)
    s = find(ep, prefix)
    if s != NULL and s.strangers >= MAX_SOURCE_STRANGERS:
        return s.oldest
    if ep.strangers >= MAX_STRANGERS or ep.assocs >= MAX_ASSOCS or ep.strangers_held > ep.budget // 16 * 7:
        return ep.oldest_stranger
    return NULL


# --- streams that wait for a decision

cdef bint undecided_room(const Assoc *a) noexcept nogil:
    cdef uint32_t n = a.ep.undecided
    return n < MAX_UNDECIDED and a.source.undecided < (MAX_UNDECIDED - n) // UNDECIDED_SHARE


cdef void undecided_add(Stream *s) noexcept nogil:
    s.undecided = True
    s.assoc.undecided += 1
    s.assoc.source.undecided += 1
    s.assoc.ep.undecided += 1


cdef void undecided_done(Stream *s) noexcept nogil:
    if s.undecided:
        s.undecided = False
        s.assoc.undecided -= 1
        s.assoc.source.undecided -= 1
        s.assoc.ep.undecided -= 1
