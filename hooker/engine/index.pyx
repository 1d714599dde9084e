"""Flows in chains of buckets. Peers and applications choose the keys, so the buckets are chosen by a keyed hash and the
chains are bounded: a flow for which there is no room is one that is not found, and stays on TCP."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from hooker.engine.worker cimport *
from hooker.includes.siphash cimport siphash24

cdef enum:
    DEPTH = 32


cdef int index_init(worker *w) noexcept nogil:
    cdef int i
    w.chain_mask = w.max_flows - 1              # a power of two
    for i in range(CHAINS):
        w.chains[i] = <flow **>calloc(w.max_flows, sizeof(flow *))
        if w.chains[i] == NULL:
            return -1
    return 0


cdef void index_free(worker *w) noexcept nogil:
    cdef int i
    for i in range(CHAINS):
        free(w.chains[i])
        w.chains[i] = NULL


cdef inline uint64_t scattered(const worker *w, uint64_t one, uint64_t other) noexcept nogil:
    cdef uint64_t both[2]
    both[0], both[1] = one, other
    return siphash24(w.scatter, <const uint8_t *>both, sizeof(both))


cdef inline uint64_t hash_of(const worker *w, const flow *f, chain kind) noexcept nogil:
    if kind == BY_TUPLE:
        return siphash24(w.scatter, <const uint8_t *>&f.ends, sizeof(ends))
    if kind == BY_TOKEN:
        return <uint32_t>f.f.token              # random, and our own
    if kind == BY_PEER_TOKEN:
        return scattered(w, <uint32_t>f.f.peer_token, <uint64_t>f.p)
    return scattered(w, f.locator, 0)


cdef inline flow **bucket(worker *w, chain kind, uint64_t hashed) noexcept nogil:
    return &w.chains[<int>kind][hashed & w.chain_mask]


cdef bint index_add(worker *w, flow *f, chain kind) noexcept nogil:
    cdef flow **b = bucket(w, kind, hash_of(w, f, kind))
    cdef flow *at = b[0]
    cdef uint32_t n = 0
    while at != NULL:
        n += 1
        if n == DEPTH:
            return False
        at = at.next[<int>kind]
    f.next[<int>kind] = b[0]
    b[0] = f
    return True


cdef void index_remove(worker *w, flow *f, chain kind) noexcept nogil:
    cdef flow **p = bucket(w, kind, hash_of(w, f, kind))
    while p[0] != NULL:
        if p[0] == f:
            p[0] = f.next[<int>kind]
            return
        p = &p[0].next[<int>kind]


cdef inline bint has_ends(const flow *f, const ends *e) noexcept nogil:
    return memcmp(&f.ends, e, sizeof(ends)) == 0


cdef flow *flow_by_tuple(worker *w, const ends *e) noexcept nogil:
    cdef flow *f = w.last_local
    if f != NULL and has_ends(f, e):
        return f
    f = bucket(w, BY_TUPLE, siphash24(w.scatter, <const uint8_t *>e, sizeof(ends)))[0]
    while f != NULL and not has_ends(f, e):
        f = f.next[<int>BY_TUPLE]
    if f != NULL:
        w.last_local = f
    return f


cdef flow *flow_by_token(worker *w, uint32_t low) noexcept nogil:
    cdef flow *f = bucket(w, BY_TOKEN, low)[0]
    while f != NULL and <uint32_t>f.f.token != low:
        f = f.next[<int>BY_TOKEN]
    return f


cdef flow *flow_by_peer_token(worker *w, const peer *p, uint64_t token) noexcept nogil:
    cdef uint32_t low = <uint32_t>token
    cdef flow *f = bucket(w, BY_PEER_TOKEN, scattered(w, low, <uint64_t>p))[0]
    while f != NULL:
        if f.p == p and <uint32_t>f.f.peer_token == low and (token >> 32 == 0 or f.f.peer_token == token):
            return f
        f = f.next[<int>BY_PEER_TOKEN]
    return NULL


cdef flow *flow_by_locator(worker *w, uint64_t locator) noexcept nogil:
    cdef flow *f = bucket(w, BY_LOCATOR, scattered(w, locator, 0))[0]
    while f != NULL and f.locator != locator:
        f = f.next[<int>BY_LOCATOR]
    return f
