"""Bounds for what peers make a transport hold, by source.

A source may hold as much as is left of the budget to all: who wants all gets half of it, two such two thirds
together, and some is always left for others.

Associations have a bound in all, too, which a few sources can reach together. Then the one that a peer has
begun and nothing has used for longest makes room, so that they cannot keep the others out.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from hooker.includes.bucket cimport bucket_take
from hooker.includes.ip cimport is_v4
from hooker.includes.siphash cimport siphash24
from hooker.transports.contract cimport Association, PeerAddress

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    CHAINS = 256
    ROOM_RATE = 1000           # per second
    ROOM_BURST = 32


cdef void sources_init(SourceTable *t, uint64_t budget) noexcept nogil:
    memset(t, 0, sizeof(SourceTable))
    getrandom(t.key, sizeof(t.key), 0)
    t.budget = budget


cdef void prefix_of(const PeerAddress *peer, uint8_t *out) noexcept nogil:
    memset(out, 0, 16)
    memcpy(out, peer.ip, 16 if is_v4(peer.ip) else 8)


cdef inline uint32_t chain_of(const SourceTable *t, const uint8_t *prefix) noexcept nogil:
    return siphash24(t.key, prefix, 16) & (CHAINS - 1)


cdef Source *find(const SourceTable *t, const uint8_t *prefix) noexcept nogil:
    cdef Source *s = t.chains[chain_of(t, prefix)]
    while s != NULL and memcmp(s.prefix, prefix, 16) != 0:
        s = s.next
    return s


cdef Source *source_join(SourceTable *t, const PeerAddress *peer) noexcept nogil:
    cdef uint8_t prefix[16]
    cdef Source *s
    cdef uint32_t chain
    prefix_of(peer, prefix)
    s = find(t, prefix)
    if s == NULL:
        s = <Source *>calloc(1, sizeof(Source))
        if s == NULL:
            return NULL
        chain = chain_of(t, prefix)
        memcpy(s.prefix, prefix, 16)
        s.next = t.chains[chain]
        t.chains[chain] = s
        t.n += 1
    s.assocs += 1
    return s


cdef bint source_known(const SourceTable *t, const PeerAddress *peer) noexcept nogil:
    cdef uint8_t prefix[16]
    prefix_of(peer, prefix)
    return find(t, prefix) != NULL


cdef void source_leave(SourceTable *t, Source *s) noexcept nogil:
    cdef Source **at = &t.chains[chain_of(t, s.prefix)]
    s.assocs -= 1
    if s.assocs:
        return
    while at[0] != s:
        at = &at[0].next
    at[0] = s.next
    t.n -= 1
    t.held -= s.held
    free(s)


cdef bint source_hold(SourceTable *t, Source *s, uint64_t n) noexcept nogil:
    cdef uint64_t left = t.budget - t.held
    if n > left or s.held + n > left - n:
        return False
    s.held += n
    t.held += n
    return True


cdef void source_give(SourceTable *t, Source *s, uint64_t n) noexcept nogil:
    s.held -= n
    t.held -= n


cdef bint may_make_room(SourceTable *t, uint64_t now) noexcept nogil:
    return bucket_take(&t.rooms, now, ROOM_RATE, ROOM_BURST)


cdef Association *longest_unused(Association **slots, uint32_t top, unused_since since) noexcept nogil:
    cdef Association *found = NULL
    cdef uint64_t at, first = 0
    cdef uint32_t i
    for i in range(top):
        at = since(slots[i]) if slots[i] != NULL else 0
        if at and (found == NULL or at < first):
            found, first = slots[i], at
    return found
