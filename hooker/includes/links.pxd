# Lists whose members carry their own links: nothing is allocated, and a member leaves without a search.

cdef struct Link:              # zeroed: in no list
    Link *prev
    Link *next
    void *owner                # what carries it, while it is in a list
    bint inside

cdef struct LinkList:
    Link *first
    Link *last


cdef inline void link_append(LinkList *l, Link *k, void *owner) noexcept nogil:
    k.owner, k.inside, k.next, k.prev = owner, True, NULL, l.last
    if l.last != NULL:
        l.last.next = k
    else:
        l.first = k
    l.last = k

cdef inline void link_prepend(LinkList *l, Link *k, void *owner) noexcept nogil:
    k.owner, k.inside, k.prev, k.next = owner, True, NULL, l.first
    if l.first != NULL:
        l.first.prev = k
    else:
        l.last = k
    l.first = k

cdef inline void link_remove(LinkList *l, Link *k) noexcept nogil:
    if k.prev != NULL:
        k.prev.next = k.next
    else:
        l.first = k.next
    if k.next != NULL:
        k.next.prev = k.prev
    else:
        l.last = k.prev
    k.inside = False
