"""What channels put into a packet: control messages and reports, then blocks.

Channels with blocks take turns by bytes (deficit round robin, Shreedhar and Varghese 1996). A block that is larger
than the packet gives one frame that fills it exactly, so that UDP GSO is possible; the end of one shares its packet
with what follows.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from hooker.vtl.api cimport VTL_MAX_MESSAGE, vtl_sink
from hooker.vtl.builder cimport *
from hooker.vtl.channel cimport (
    TURN, busy_add, busy_remove, channel_give_up, first_of, item_gone, item_leave, item_new, item_spare, item_split,
    talking_remove,
)
from hooker.vtl.core cimport *
from hooker.vtl.recovery cimport MAX_PACKET_FRAMES
from hooker.vtl.wire cimport *

cdef enum:
    MAX_RUN = 64               # items in one frame


# --- control

cdef void leave(Builder *d, Item *it, uint8_t type) noexcept nogil:
    if not d.a.rel.plain and d.a.rel.ops.once and it.channel != NULL:
        item_gone(d.a, it)
        return
    item_leave(d.a, it)
    record(d, type, 0, 0, <uint64_t>it, 0)


cdef bint add_word(Builder *d, Item *it) noexcept nogil:
    cdef uint8_t *p = put(d, MESSAGE_HEADER + it.n)
    if p == NULL:
        return False
    p[0] = FR_MESSAGE
    p[1] = it.n
    memcpy(p + MESSAGE_HEADER, it.data, it.n)
    leave(d, it, FR_MESSAGE)
    return True


cdef bint add_hole(Builder *d, Item *it) noexcept nogil:
    cdef uint8_t *p = put(d, HOLE_FRAME)
    if p == NULL:
        return False
    write_prefix(p, FR_HOLE, it.flags, it.n, it.id)
    store32(p + 8, it.position)
    store32(p + 12, 0)
    p[12] = it.epoch
    leave(d, it, FR_HOLE)
    return True


cdef bint add_report(Builder *d, Channel *c) noexcept nogil:
    """Composed in its place; False: no room for a large one."""
    cdef vtl_sink *k = &d.a.ep.sink
    cdef Item *it = item_new(d.a.ep, I_REPORT)
    cdef uint8_t *p = put(d, MESSAGE_HEADER + VTL_MAX_MESSAGE) if it != NULL else NULL
    cdef uint32_t n
    if p == NULL:
        item_spare(d.a.ep, it)
        return False
    c.report_due = False
    n = min(k.report(k.ctx, c.user, p + MESSAGE_HEADER), <uint32_t>VTL_MAX_MESSAGE)
    if n == 0:
        take_back(d, MESSAGE_HEADER + VTL_MAX_MESSAGE)
        item_spare(d.a.ep, it)
        return True
    take_back(d, VTL_MAX_MESSAGE - n)
    p[0] = FR_MESSAGE
    p[1] = n
    c.reports += 1
    it.id = c.reports
    it.channel = c
    leave(d, it, FR_MESSAGE)
    return True


cdef bint add_words_of(Builder *d, Channel *c) noexcept nogil:
    """All that it says; False: something is left."""
    while c.words != NULL:
        if not has_frame_room(d):
            return False
        if not (add_hole(d, c.words) if c.words.kind == I_HOLE else add_word(d, c.words)):
            return False
    return not c.report_due or (has_frame_room(d) and add_report(d, c))


cdef void add_messages(Builder *d) noexcept nogil:
    cdef Assoc *a = d.a
    while a.words != NULL:
        if not has_frame_room(d) or not add_word(d, a.words):
            return
    while a.talking.first != NULL and add_words_of(d, first_of(&a.talking)):
        talking_remove(first_of(&a.talking))


# --- blocks

cdef inline bint follows(const Item *y, const Item *x) noexcept nogil:
    """One frame may carry both: nothing is said of the end of x."""
    return x.flags == 0 and y.position == x.position + x.n and y.id == x.id and y.epoch == x.epoch


cdef uint32_t run_of(Item *first, uint32_t room, uint32_t most, uint32_t *bytes) noexcept nogil:
    """How many items the next frame carries, and how many bytes of them; the last may be cut."""
    cdef Item *it = first
    cdef uint32_t k = 1, n = it.n
    while n < room and k < most and it.next != first and follows(it.next, it):
        it = it.next
        n += it.n
        k += 1
    bytes[0] = min(n, room)
    return k


cdef inline bint cuts_message(const Builder *d, const Channel *c) noexcept nogil:
    """A few bytes that TCP would not cut: better at the front of the next packet than in two."""
    return (d.limit - d.size < BLOCK_HEADER + c.waiting and c.waiting <= min(SHORT_MESSAGE, d.limit // 4)
            and d.size > d.limit // 2 and c.again == NULL)


cdef uint32_t add_run(Builder *d, Item **list, uint32_t k, uint32_t n, uint8_t *flags) noexcept nogil:
    """The items of a run; how many of them. Fewer: the batch has no more iovecs, or there is no memory."""
    cdef Item *it
    cdef uint32_t i, m
    for i in range(k):
        it = list[0]
        m = min(it.n, n)
        if d.b.iov_len == d.b.iov_cap:
            return i
        if m < it.n:
            it = item_split(it, m)
            if it == NULL:
                return i
        if m > 0:
            carry(d, it.data, m)
        n -= m
        flags[0] = it.flags
        leave(d, it, FR_BLOCK)
    return k


cdef inline bint cuts_segment(const Builder *d, const Item *it) noexcept nogil:
    """One that a datagram of its own has room for."""
    cdef uint32_t n = BLOCK_HEADER + it.n
    return d.limit - d.size < n <= d.limit - DATA_HEADER


cdef bint add_block(Builder *d, Channel *c) noexcept nogil:
    """One BLOCK frame; False: no room for one. One that fills the packet needs no length, and is the last."""
    cdef Item **list = &c.again if c.again != NULL else &c.fresh
    cdef bint again = c.again != NULL, once = not d.a.rel.plain and d.a.rel.ops.once, last
    cdef uint8_t *p
    cdef uint8_t flags = 0
    cdef uint32_t n = 0, k, head, before = d.size
    if d.limit - d.size <= BLOCK_HEADER or cuts_message(d, c) or (once and cuts_segment(d, list[0])):
        return False
    k = run_of(list[0], min(d.limit - d.size - BLOCK_HEADER, <uint32_t>0xffff), 1 if once else MAX_RUN, &n)
    last = d.size + BLOCK_HEADER + BLOCK_LENGTH + n > d.limit
    head = BLOCK_HEADER if last else BLOCK_HEADER + BLOCK_LENGTH
    p = put(d, head)
    if p == NULL:
        return False
    store32(p + 1, list[0].id)
    store32(p + 5, list[0].position)
    p[9] = list[0].epoch
    if add_run(d, list, k, n, &flags) == 0:
        take_back(d, head)
        return False
    if last or once:
        d.limit = d.size
    n = d.size - before - head
    p[0] = FR_BLOCK | flags | (0 if last else BLOCK_LEN)
    if not last:
        store16(p + BLOCK_HEADER, n)
    d.a.stream_sent += n
    if again:
        d.a.stream_again += n
    c.credit -= <int32_t>(d.size - before)
    return True


cdef void add_blocks(Builder *d) noexcept nogil:
    cdef Assoc *a = d.a
    cdef Channel *c
    if a.state != A_UP:
        return
    while a.busy.first != NULL and d.a.rec.frame_tail - d.frame0 + MAX_RUN < MAX_PACKET_FRAMES - 8:
        c = first_of(&a.busy)
        if not a.rel.plain and a.rel.ops.gives_up != NULL:
            channel_give_up(c)
        if c.again == NULL and c.fresh == NULL:
            busy_remove(c)
        elif not add_block(d, c):
            return
        elif c.credit <= 0:
            c.credit += TURN
            busy_remove(c)
            busy_add(c)
