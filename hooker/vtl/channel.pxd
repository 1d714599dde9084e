# Channels and what they send: see channel.pyx.

from libc.stdint cimport uint8_t, uint32_t
from hooker.includes.links cimport LinkList, link_append, link_remove
from hooker.vtl.api cimport VTL_MAX_MESSAGE, vtl_block
from hooker.vtl.core cimport Assoc, Channel, Endpoint, Item, assoc_ready

cdef enum:
    TURN = 16384               # bytes a channel sends before the next one has its turn


cdef struct Word:              # a control message
    Item item
    uint8_t bytes[VTL_MAX_MESSAGE]


# --- lists: a ring of items, `list` points to its first one

cdef inline void item_before(Item *it, Item *at, Item **list) noexcept nogil:
    it.list = list
    it.next = at
    it.prev = at.prev
    at.prev.next = it
    at.prev = it

cdef inline void item_append(Item **list, Item *it) noexcept nogil:
    if list[0] == NULL:
        it.list = list
        list[0] = it.prev = it.next = it
    else:
        item_before(it, list[0], list)

cdef inline void item_prepend(Item **list, Item *it) noexcept nogil:
    item_append(list, it)
    list[0] = it

cdef inline void item_unlink(Item *it) noexcept nogil:
    if it.next == it:
        it.list[0] = NULL
    else:
        if it.list[0] == it:
            it.list[0] = it.next
        it.prev.next = it.next
        it.next.prev = it.prev
    it.list = NULL


# --- lists of channels

cdef inline Channel *first_of(const LinkList *l) noexcept nogil:
    return <Channel *>l.first.owner

cdef inline void busy_add(Channel *c) noexcept nogil:
    link_append(&c.assoc.busy, &c.busy, c)

cdef inline void busy_remove(Channel *c) noexcept nogil:
    link_remove(&c.assoc.busy, &c.busy)

cdef inline void talking_remove(Channel *c) noexcept nogil:
    link_remove(&c.assoc.talking, &c.talking)


# --- what the engine asks for

cdef Channel *channel_new(Assoc *a, void *user) noexcept nogil           # NULL: limit or memory
cdef void channel_destroy(Channel *c) noexcept nogil
cdef bint channel_at_rest(const Channel *c) noexcept nogil
cdef void assoc_hold(Assoc *a) noexcept nogil
cdef void assoc_let_go(Assoc *a) noexcept nogil
cdef int channel_send(Channel *c, const vtl_block *b, void *owner) noexcept nogil       # 0, or -1: full, or no memory
cdef const Item *channel_newest(const Channel *c) noexcept nogil        # NULL: nothing of it is unacknowledged
cdef int channel_say(Channel *c, const uint8_t *p, uint32_t n) noexcept nogil           # the same
cdef int assoc_say(Assoc *a, const uint8_t *p, uint32_t n) noexcept nogil               # the same
cdef void channel_talk(Channel *c) noexcept nogil                        # it has control messages or a report to send

# --- while packets are built

cdef Item *item_new(Endpoint *ep, uint8_t kind) noexcept nogil           # in no list; NULL: no memory
cdef void item_spare(Endpoint *ep, Item *it) noexcept nogil              # it was not needed; may be NULL
# its first n bytes, before it in its list; NULL: no memory
cdef Item *item_split(Item *it, uint32_t n) noexcept nogil
cdef void item_leave(Assoc *a, Item *it) noexcept nogil                  # one more packet carries it
cdef void item_gone(Assoc *a, Item *it) noexcept nogil                   # a packet carries it, and that is all
cdef void channel_give_up(Channel *c) noexcept nogil                     # lost blocks that are not to go again

# --- what became of a packet that carries it

cdef void item_acked(Assoc *a, Item *it) noexcept nogil
cdef void item_lost(Assoc *a, Item *it) noexcept nogil
cdef void item_repeat(Assoc *a, Item *it) noexcept nogil                 # it goes out again, and may still arrive

# --- ends

cdef void channels_release(Assoc *a) noexcept nogil                      # release() for what is done
cdef void channels_down(Assoc *a) noexcept nogil                         # release() and channel_down() for each
# packets and their numbers begin anew; there are no channels
cdef void channels_restart(Assoc *a) noexcept nogil
cdef void channels_free(Assoc *a) noexcept nogil                         # no callback but release()
# channels without an association, and the spare items
cdef void channels_free_down(Endpoint *ep) noexcept nogil
