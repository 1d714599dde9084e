"""The receive ring, which is the retransmission store: slabs that are filled by recv() and lent to VTL.

A slab is filled front to back. What VTL has not had acknowledged is borrowed; a slab is used again only
when nothing of it is, and no Python view of it is alive. So payload is never copied to be packetised.
"""

from libc.stdlib cimport calloc, free
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from hooker.includes.linux cimport hk_load64


cdef int pool_init(slab_pool *p, size_t slab_size, size_t limit) noexcept nogil:
    p.size = slab_size
    p.limit = limit
    p.made = p.known = p.free_count = p.least_free = 0
    p.free_list = p.empty_list = NULL
    p.current = NULL
    p.all = <slab **>calloc(limit, sizeof(slab *))
    return 0 if p.all != NULL else -1


cdef void pool_free(slab_pool *p) noexcept nogil:
    cdef size_t i
    if p.all == NULL:
        return
    for i in range(p.known):
        if p.all[i].base != NULL:
            munmap(p.all[i].base, p.size)
        free(p.all[i])
    free(p.all)
    p.all = NULL


cdef slab *empty_slab(slab_pool *p) noexcept nogil:
    """One without memory."""
    cdef slab *s = p.empty_list
    if s != NULL:
        p.empty_list = s.next_free
        return s
    if p.known == p.limit:
        return NULL
    s = <slab *>calloc(1, sizeof(slab))
    if s != NULL:
        p.all[p.known] = s
        p.known += 1
    return s


cdef inline void put_empty(slab_pool *p, slab *s) noexcept nogil:
    s.base = NULL
    s.next_free = p.empty_list
    p.empty_list = s


cdef slab *make_slab(slab_pool *p) noexcept nogil:
    cdef slab *s = empty_slab(p)
    cdef void *m
    if s == NULL:
        return NULL
    m = mmap(NULL, p.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if m == MAP_FAILED:
        put_empty(p, s)
        return NULL
    s.base = <uint8_t *>m
    p.made += 1
    return s


cdef inline bint idle(slab *s) noexcept nogil:
    return s.borrowed == 0 and hk_load64(&s.views) == 0


cdef inline void recycle(slab_pool *p, slab *s) noexcept nogil:
    s.in_free = True
    s.next_free = p.free_list
    p.free_list = s
    p.free_count += 1


cdef slab *take_free(slab_pool *p) noexcept nogil:
    cdef slab *s = p.free_list
    if s != NULL:
        p.free_list = s.next_free
        s.in_free = False
        p.free_count -= 1
        if p.free_count < p.least_free:
            p.least_free = p.free_count
    return s


cdef void find_viewed(slab_pool *p) noexcept nogil:
    """Slabs whose last Python view went when nothing else held them: no release() came for those."""
    cdef size_t i
    for i in range(p.known):
        if p.all[i].base != NULL and not p.all[i].in_free and p.all[i] != p.current and idle(p.all[i]):
            recycle(p, p.all[i])


cdef bint pool_has_room(slab_pool *p) noexcept nogil:
    if p.free_list == NULL and p.made == p.limit:
        find_viewed(p)
    return p.free_list != NULL or p.made < p.limit


cdef slab *pool_current(slab_pool *p, size_t room) noexcept nogil:
    """The slab that is being filled, with at least `room` bytes left; a full one is put aside."""
    cdef slab *s = p.current
    if s != NULL:
        if idle(s):
            s.used = 0
        if p.size - s.used >= room:
            return s
    p.current = NULL
    if s != NULL and idle(s):
        recycle(p, s)
    s = take_free(p) if pool_has_room(p) else NULL
    if s == NULL:
        s = make_slab(p)
    if s != NULL:
        s.used = 0
    p.current = s
    return s


cdef void pool_release(slab_pool *p, slab *s, size_t n) noexcept nogil:
    s.borrowed -= n
    if s != p.current and idle(s):
        recycle(p, s)


cdef void pool_trim(slab_pool *p) noexcept nogil:
    """Once in a while: half of the slabs that lay free all the time since go back to the system."""
    cdef size_t n = (p.least_free - RESERVE + 1) // 2 if p.least_free > RESERVE else 0
    cdef slab *s
    while n > 0:
        s = take_free(p)
        munmap(s.base, p.size)
        put_empty(p, s)
        p.made -= 1
        n -= 1
    p.least_free = p.free_count
