"""Memory for what comes by the ten thousand and mostly goes again, as the channels of flows that come to
rest.

Between other things on the heap, what is freed is holes: no page of the system's would be without
something. Here what is of one kind lies together. Objects are taken from the page that got room last;
where all are given back, the page goes.
"""

from libc.stdint cimport uintptr_t
from libc.string cimport memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap


cdef page *page_map() noexcept nogil:
    """Aligned: what is too much is cut off at both ends."""
    cdef char *m = <char *>mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    cdef size_t before
    if m == MAP_FAILED:
        return NULL
    before = <size_t>(-<uintptr_t>m) & (PAGE - 1)
    if before:
        munmap(m, before)
    munmap(m + before + PAGE, PAGE - before)
    return <page *>(m + before)


cdef inline bint has_room(const page *g) noexcept nogil:
    return g.unused != NULL or g.fresh + g.owner.size <= PAGE


cdef void put_first(page *g) noexcept nogil:
    g.prev = NULL
    g.next = g.owner.roomy
    if g.next != NULL:
        g.next.prev = g
    g.owner.roomy = g


cdef void take_out(page *g) noexcept nogil:
    if g.prev != NULL:
        g.prev.next = g.next
    else:
        g.owner.roomy = g.next
    if g.next != NULL:
        g.next.prev = g.prev


cdef page *page_new(pages *p) noexcept nogil:
    cdef page *g = page_map()
    if g == NULL:
        return NULL
    g.owner = p
    g.fresh = sizeof(page)
    p.n += 1
    put_first(g)
    return g


cdef void *pages_take(pages *p) noexcept nogil:
    cdef page *g = p.roomy if p.roomy != NULL else page_new(p)
    cdef cell *c
    if g == NULL:
        return NULL
    c = g.unused
    if c != NULL:
        g.unused = c.next
        memset(c, 0, p.size)
    else:
        c = <cell *>(<char *>g + g.fresh)
        g.fresh += p.size
    g.used += 1
    if not has_room(g):
        take_out(g)
    return c


cdef void pages_give(void *object) noexcept nogil:
    cdef page *g = <page *>(<uintptr_t>object & ~<uintptr_t>(PAGE - 1))
    cdef cell *c = <cell *>object
    if not has_room(g):
        put_first(g)
    c.next = g.unused
    g.unused = c
    g.used -= 1
    if g.used == 0 and (g.prev != NULL or g.next != NULL):      # the last one stays: it is wanted again soon
        take_out(g)
        g.owner.n -= 1
        munmap(g, PAGE)


cdef void pages_free(pages *p) noexcept nogil:
    cdef page *g
    while p.roomy != NULL:
        g = p.roomy
        p.roomy = g.next
        p.n -= 1
        munmap(g, PAGE)
