"""What the transport has of the local TCPs' bytes, with a share for each peer.

A byte that a peer does not acknowledge keeps its whole slab, whoever else has bytes in it. So what is counted is slabs: a *lot*
is what one association has in one of them, and a source of peers (the transport knows them) has so many slabs as it has lots.

1. A source may keep twice as many slabs as nobody keeps. One that acknowledges nothing so has two thirds of all, two such four fifths
   together, and there are always some left.
2. Beyond that its bytes are copied: out of another budget, three quarters for whoever asks, the
   last divided equally. So flows of others go on when the slabs are with peers that acknowledge nothing, be they many.
3. What exceeds this is not taken: TCP sends it again, as behind a full queue. Only bytes of the redirect socket have nobody who
   would: they are taken whatever the share, and their flow's credit is kept down meanwhile (redirected.pyx).

All of it is O(1).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.engine.worker cimport *
from hooker.engine.slab cimport pool_release, slab
from hooker.transports.contract cimport TAKE_COPIES, TAKE_SLABS, Association

cdef enum:
    LEFT_SHARE = 2             # times what is left
    COPIES = 4                 # a part of the slabs' memory


cdef inline uint64_t slabs_left(const worker *w) noexcept nogil:
    cdef uint64_t kept = w.slabs.made - w.slabs.free_count
    return w.slabs.limit - kept if kept < w.slabs.limit else 0


# ---- whose they are ----------------------------------------------------------------------------------

cdef account *account_of(peer *p) noexcept nogil:
    if p.lent == NULL:
        p.lent = <account *>malloc(sizeof(account))
        if p.lent != NULL:
            p.lent.a, p.lent.lots = p.a, 1      # the peer's own
    return p.lent


cdef void account_less(account *to) noexcept nogil:
    to.lots -= 1
    if to.lots == 0:
        free(to)


cdef lot *lot_new(peer *p, size_t copied) noexcept nogil:
    cdef account *to = account_of(p)
    cdef lot *l = <lot *>malloc(sizeof(lot) + copied) if to != NULL else NULL
    if l == NULL:
        return NULL
    memset(l, 0, sizeof(lot))
    l.to, l.copied = to, copied
    to.lots += 1
    return l


cdef void let_go(worker *w, lot *l) noexcept nogil:
    cdef Association *a = l.to.a                # that which is down has been forgotten with all it had
    if l.p != NULL:
        l.p.newest = NULL
    if l.memory == NULL:
        w.copied -= l.copied
    if a != NULL and l.memory != NULL:
        a.ops.take(a, TAKE_SLABS, -1)
    elif a != NULL:
        a.ops.take(a, TAKE_COPIES, -<int64_t>l.copied)
    account_less(l.to)
    free(l)


cdef void lent_end(peer *p) noexcept nogil:
    if p.newest != NULL:
        p.newest.p = NULL
        p.newest = NULL
    if p.lent != NULL:
        p.lent.a = NULL
        account_less(p.lent)
        p.lent = NULL


# ---- lent, and back ----------------------------------------------------------------------------------

cdef bint lent_room(const worker *w, const peer *p) noexcept nogil:
    return p.a.ops.taken(p.a, TAKE_SLABS) < LEFT_SHARE * slabs_left(w)


cdef lot *lot_in(worker *w, peer *p, slab *memory) noexcept nogil:
    cdef lot *l = p.newest
    if l != NULL and l.memory == memory:
        return l
    l = lot_new(p, 0)
    if l == NULL:
        return NULL
    l.memory, l.p = memory, p
    if p.newest != NULL:
        p.newest.p = NULL
    p.newest = l
    p.a.ops.take(p.a, TAKE_SLABS, 1)
    return l


cdef uint64_t copies_room(const worker *w, const peer *p) noexcept nogil:
    cdef uint64_t most = w.slabs.limit * w.slabs.size // COPIES
    cdef uint64_t taken = p.a.ops.taken(p.a, TAKE_COPIES), share = most // 4 // p.a.ops.sources(p.a)
    cdef uint64_t left = most - w.copied if w.copied < most else 0
    if left > most // 4:
        share = max(share, left - most // 4)
    return min(share - taken if share > taken else 0, left)


cdef lot *copy_of(worker *w, peer *p, const uint8_t **data, uint32_t n) noexcept nogil:
    cdef lot *l
    if n > copies_room(w, p):
        return NULL
    l = lot_new(p, n)
    if l == NULL:
        return NULL
    memcpy(<uint8_t *>l + sizeof(lot), data[0], n)
    data[0] = <uint8_t *>l + sizeof(lot)
    w.copied += n
    p.a.ops.take(p.a, TAKE_COPIES, n)
    return l


cdef inline bint is_newest(const peer *p, const slab *memory) noexcept nogil:
    return p.newest != NULL and p.newest.memory == memory


cdef lot *lent_for(worker *w, flow *f, slab *memory, const uint8_t **data, uint32_t n) noexcept nogil:
    cdef lot *l = NULL
    if f.p == NULL or f.p.a == NULL:
        return NULL
    if memory != NULL and (is_newest(f.p, memory) or lent_room(w, f.p)):
        l = lot_in(w, f.p, memory)
    if l == NULL:
        l = copy_of(w, f.p, data, n)
    if l == NULL:
        w.n.over_share += 1
    return l


cdef lot *lent_frame(worker *w, flow *f, slab *memory, const uint8_t **data, uint32_t n) noexcept nogil:
    cdef lot *l = lent_for(w, f, memory, data, n)
    if l == NULL and f.p != NULL and f.p.a != NULL:
        l = lot_in(w, f.p, memory)
    return l


cdef bint lent_taken(lot *l, uint32_t n) noexcept nogil:
    l.borrowed += n
    if l.memory == NULL:
        return False
    l.memory.borrowed += n
    return True


cdef void lent_not(worker *w, lot *l) noexcept nogil:
    if l.borrowed == 0:
        let_go(w, l)


cdef void lent_back(worker *w, lot *l, size_t n) noexcept nogil:
    cdef slab *memory = l.memory
    l.borrowed -= n
    if l.borrowed == 0:
        let_go(w, l)
    if memory != NULL:
        pool_release(&w.slabs, memory, n)
