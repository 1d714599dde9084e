"""The streams of one association over QUIC, all unidirectional: the first carries control messages, the
others, the *lanes*, DATA. Each side has opened all of its own as soon as the connection is up, and none
ends before it.

Frames are those of queues.pyx: a length of 32 bits, then a message. What was handed to a stream is a copy,
which is kept until the peer has acknowledged it. What comes is not put together: DATA is handed on as its
bytes come, so of a frame only its head is kept here, HEAD_ROOM bytes at most.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from hooker.flow.messages cimport (
    DATA_OPENERS, FLAG_STAMPS, MAX_CONTROL, MESSAGE_FINE, MSG_DATA, PREFIX_SIZE, STAMPS_SIZE, Message,
    message_bytes, read_message,
)
from hooker.includes.bytes cimport load32
from hooker.transports.queues cimport LENGTH_SIZE

cdef enum:
    MAX_PAYLOAD = 65535


# ---- out ---------------------------------------------------------------------------------------------

cdef Chunk *chunk_new(uint32_t n) noexcept nogil:
    cdef Chunk *c = <Chunk *>malloc(sizeof(Chunk) + n)
    if c != NULL:
        c.next, c.n = NULL, n
    return c


cdef Chunk *chunk_cut(Chunk *c, uint32_t n) noexcept nogil:
    cdef Chunk *smaller = <Chunk *>realloc(c, sizeof(Chunk) + n)
    if smaller == NULL:                             # it stays as large as it is
        smaller = c
    smaller.n = n
    return smaller


cdef void lane_add(Lane *l, Chunk *c) noexcept nogil:
    if l.last != NULL:
        l.last.next = c
    else:
        l.first = c
    l.last = c
    l.end += c.n
    if l.at == NULL:
        l.at, l.at_n = c, 0


cdef void lane_gone(Lane *l, uint64_t n) noexcept nogil:
    l.written += n
    while l.at != NULL and n >= l.at.n - l.at_n:
        n -= l.at.n - l.at_n
        l.at, l.at_n = l.at.next, 0
    l.at_n += <uint32_t>n


cdef uint64_t lane_free_acked(Lane *l, uint64_t to) noexcept nogil:
    cdef uint64_t cost = 0
    cdef Chunk *c
    l.acked = max(l.acked, to)
    while l.first != NULL and l.freed + l.first.n <= l.acked:
        c = l.first
        l.first = c.next
        if l.first == NULL:
            l.last = NULL
        l.freed += c.n
        cost += chunk_cost(c.n)
        free(c)
    return cost


cdef uint64_t lane_free_all(Lane *l) noexcept nogil:
    cdef uint64_t cost = lane_free_acked(l, l.end)
    l.at = NULL
    return cost


cdef bint lane_moves(Lane *l, uint64_t now) noexcept nogil:
    if l.acked < l.written and l.acked == l.seen:
        return False
    l.seen, l.moved = l.acked, now
    return True


# ---- in ----------------------------------------------------------------------------------------------

cdef bint gather(Inlet *i, uint32_t want, const uint8_t **p, size_t *n) noexcept nogil:
    """Whether so many bytes of the head are here now."""
    cdef uint32_t more
    if i.head_n >= want:
        return True
    more = <uint32_t>min(<size_t>(want - i.head_n), n[0])
    memcpy(i.head + i.head_n, p[0], more)
    i.head_n += more
    p[0] += more
    n[0] -= more
    return i.head_n == want


cdef void give_part(Inlet *i, const uint8_t **p, size_t *n, Message *out) noexcept nogil:
    """What has come of DATA's payload. Flags stay with the end, but one."""
    cdef uint32_t part = <uint32_t>min(<size_t>i.left, n[0])
    out[0] = i.m
    out.data, out.data_n = p[0], part
    if part < i.left:
        out.flags &= DATA_OPENERS
    i.m.position += part
    i.left -= part
    p[0] += part
    n[0] -= part


cdef inlet_verdict next_data(Inlet *i, const uint8_t **p, size_t *n, Message *out) noexcept nogil:
    cdef uint32_t size, head
    if not gather(i, LENGTH_SIZE + PREFIX_SIZE, p, n):
        return INLET_HUNGRY
    head = PREFIX_SIZE + (STAMPS_SIZE if i.head[LENGTH_SIZE + 1] & FLAG_STAMPS else 0)
    if not gather(i, LENGTH_SIZE + head, p, n):
        return INLET_HUNGRY
    size = load32(i.head)
    if i.head[LENGTH_SIZE] != MSG_DATA or not head <= size <= head + MAX_PAYLOAD:
        return INLET_BROKEN
    if read_message(i.head + LENGTH_SIZE, head, False, &i.m) != MESSAGE_FINE:
        return INLET_BROKEN
    i.head_n = 0
    i.left = size - head
    if i.left and not n[0]:
        return INLET_HUNGRY
    give_part(i, p, n, out)
    return INLET_MESSAGE


cdef inlet_verdict next_control(Inlet *i, const uint8_t **p, size_t *n, Message *out) noexcept nogil:
    cdef uint32_t size
    if not gather(i, LENGTH_SIZE, p, n):
        return INLET_HUNGRY
    size = load32(i.head)
    if not PREFIX_SIZE <= size <= MAX_CONTROL:
        return INLET_BROKEN
    if not gather(i, LENGTH_SIZE + size, p, n):
        return INLET_HUNGRY
    i.head_n = 0
    if i.head[LENGTH_SIZE] == MSG_DATA:
        return INLET_BROKEN
    return INLET_MESSAGE if read_message(i.head + LENGTH_SIZE, size, False,
                                         out) == MESSAGE_FINE else INLET_BAD_MESSAGE


cdef inlet_verdict inlet_next(Inlet *i, bint control, const uint8_t **p, size_t *n,
                              Message *out) noexcept nogil:
    if control:
        return next_control(i, p, n, out)
    if i.left and n[0]:
        give_part(i, p, n, out)
        return INLET_MESSAGE
    return next_data(i, p, n, out) if not i.left else INLET_HUNGRY


# ---- for tests ---------------------------------------------------------------------------------------

class BrokenError(ValueError):
    """The peer breaks the rules; its connection would end."""


def feed(bint control, list parts not None):
    """The messages in bytes of a stream that come in these parts, as bytes. Raises BrokenError."""
    cdef Inlet inlet
    cdef Message m
    cdef const uint8_t *p
    cdef size_t n
    cdef inlet_verdict verdict
    memset(&inlet, 0, sizeof(inlet))
    found = []
    for part in parts:
        p, n = <const uint8_t *><const char *>part, len(part)
        while True:
            verdict = inlet_next(&inlet, control, &p, &n, &m)
            if verdict == INLET_BROKEN:
                raise BrokenError("no frame")
            if verdict == INLET_HUNGRY:
                break
            if verdict == INLET_MESSAGE:
                found.append(message_bytes(&m, False))
    return found
