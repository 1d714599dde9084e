"""What a bare transport has to send, as datagrams: answers to strangers first, then associations in turns.

Control messages share datagrams. DATA has one of its own, or the rest of one into which it goes whole: cut
anew behind each acknowledgement it would not fit the segments of the TCP that repeats it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from hooker.flow.messages cimport MSG_DATA, PREFIX_SIZE, Message, write_message
from hooker.includes.bytes cimport store64
from hooker.includes.links cimport link_append, link_remove
from hooker.transports.bare_state cimport *
from hooker.transports.bare_wire cimport *
from hooker.transports.queues cimport Item, out_next, out_piece, out_wants, out_words
from hooker.vtl.api cimport vtl_addr, vtl_batch, vtl_datagram

cdef enum:
    TURN = 64                  # datagrams of an association, then the next one has its turn
    SMALL = 512                # bytes of a datagram that nearly each path carries
    ROOM = 1536                # bytes of what we write into a datagram: LARGEST of bare.pyx, and some
    HEAD = TOKEN_SIZE + PREFIX_SIZE


cdef inline bint has_room(const vtl_batch *b) noexcept nogil:
    return b.dgram_len < b.dgram_cap and b.iov_len + 2 <= b.iov_cap and b.scratch_len + ROOM <= b.scratch_cap


cdef inline uint8_t *written(const vtl_batch *b) noexcept nogil:
    """Where the next datagram is written."""
    return b.scratch + b.scratch_len


cdef vtl_datagram *put(vtl_batch *b, const vtl_addr *to, uint32_t n) noexcept nogil:
    """A datagram of n bytes that were written."""
    cdef vtl_datagram *d = &b.dgram[b.dgram_len]
    memset(d, 0, sizeof(vtl_datagram))
    d.to, d.first, d.count, d.size = to[0], b.iov_len, 1, <uint16_t>n
    b.iov[b.iov_len].iov_base, b.iov[b.iov_len].iov_len = written(b), n
    b.iov_len += 1
    b.dgram_len += 1
    b.scratch_len += n
    return d


cdef void put_bytes(vtl_batch *b, vtl_datagram *d, const Item *part) noexcept nogil:
    """DATA's behind it, as they lie."""
    if part.n == 0:
        return
    b.iov[b.iov_len].iov_base, b.iov[b.iov_len].iov_len = <void *>part.data, part.n
    b.iov_len += 1
    d.count += 1
    d.size += <uint16_t>part.n


cdef void count(BareAssociation *a, const vtl_datagram *d) noexcept nogil:
    a.datagrams_sent += 1
    a.bytes_sent += d.size
    if d.size > a.base_size:
        a.large_used = True
    if d.size > SMALL:
        a.base_used = True


cdef void shake(Bare *t, BareAssociation *a, vtl_batch *b) noexcept nogil:
    """What makes it an association is as large as what each path has to carry: else nothing begins."""
    cdef Shake s
    cdef vtl_datagram *d
    cdef uint8_t *p = written(b)
    memset(&s, 0, sizeof(s))
    s.instance = t.instance
    if a.ask_due:
        s.kind, s.token, s.time, s.cookie = SHAKE_ASK, a.own, a.cookie_time, a.cookie
    else:
        s.kind, s.token, s.cookie = SHAKE_WELCOME, a.other, a.own
    a.ask_due = a.welcome_due = False
    if s.cookie:
        memset(p, 0, a.base_size)
    d = put(b, &a.to, max(write_shake(p, &s), a.base_size if s.cookie else 0))
    d.alone = True
    count(a, d)


cdef Reach *reach(Bare *t, BareAssociation *a, uint8_t *p) noexcept nogil:
    """Writes one; its size is to be filled in."""
    cdef Reach *r
    cdef Own own
    a.number += 1
    r = &a.reaches[a.number & (REACHES - 1)]
    r.number, r.at = a.number, t.now
    own.type, own.flags, own.size, own.number = OWN_REACH, OWN_GREETED if a.hello_heard else 0, 0, a.number
    write_own(p, &own)
    return r


cdef void probe(Bare *t, BareAssociation *a, vtl_batch *b, uint32_t size) noexcept nogil:
    """Does the path carry this size?"""
    cdef uint8_t *p = written(b)
    cdef vtl_datagram *d
    memset(p, 0, size)
    store64(p, a.other)
    reach(t, a, p + TOKEN_SIZE).size = <uint16_t>size
    d = put(b, &a.to, size)
    d.alone = True
    count(a, d)


cdef void probe_most(Bare *t, BareAssociation *a, vtl_batch *b) noexcept nogil:
    probe(t, a, b, a.most)
    a.probe_due = a.large_used = False
    a.unanswered += 1


cdef void probe_base(Bare *t, BareAssociation *a, vtl_batch *b) noexcept nogil:
    probe(t, a, b, a.base_size)
    a.base_due = a.base_used = False
    a.base_asked = t.now


cdef uint32_t put_answers(BareAssociation *a, uint8_t *p) noexcept nogil:
    cdef uint32_t i, n = 0
    for i in range(a.reached_n):
        a.reached[i].flags = OWN_GREETED if a.hello_heard else 0
        n += write_own(p + n, &a.reached[i])
    a.reached_n = 0
    return n


cdef uint32_t put_words(Bare *t, BareAssociation *a, uint8_t *p, Reach **r) noexcept nogil:
    """All that is small, as far as it fits; its bytes."""
    cdef uint32_t n = put_answers(a, p)
    cdef Own end
    r[0] = NULL
    if a.reach_due:
        a.reach_due = False
        if not a.greeted:
            memcpy(p + n, a.hello, a.hello_n)
            n += a.hello_n
        r[0] = reach(t, a, p + n)
        n += OWN_SIZE
    n += out_words(&a.out, p + n, a.size - TOKEN_SIZE - OWN_SIZE - n)
    if a.end_due and not a.out.talking.first and not a.out.words.first:
        a.end_due = False
        memset(&end, 0, sizeof(end))
        end.type = OWN_END
        n += write_own(p + n, &end)
    return n


cdef uint32_t head(BareAssociation *a, const Item *part, uint8_t *p) noexcept nogil:
    cdef Message m
    m.type, m.flags, m.epoch = MSG_DATA, part.flags, part.epoch
    m.position, m.token = part.position, part.token
    return write_message(p, &m)


cdef bint one(Bare *t, BareAssociation *a, vtl_batch *b) noexcept nogil:
    """The next datagram; False: there is none."""
    cdef uint8_t *p = written(b)
    cdef const Item *part = NULL
    cdef Reach *r = NULL
    cdef uint32_t n = TOKEN_SIZE, next_
    cdef vtl_datagram *d
    store64(p, a.other)
    n += put_words(t, a, p + n, &r)
    next_ = out_next(&a.out) if a.state == BARE_UP else 0
    if next_ and (n == TOKEN_SIZE or n + PREFIX_SIZE + next_ <= a.size):
        part = out_piece(&a.out, a.size - n - PREFIX_SIZE)
        if part != NULL:
            n += head(a, part, p + n)
    if n == TOKEN_SIZE:
        return False
    while n < UNKNOWN_SIZE:                     # so that it is answered where nobody knows us
        p[n] = OWN_ZERO
        n += 1
    d = put(b, &a.to, n)
    if part != NULL:
        put_bytes(b, d, part)
    if r != NULL:
        r.size = d.size
    count(a, d)
    return True


cdef bint turn(Bare *t, BareAssociation *a, vtl_batch *b) noexcept nogil:
    """Whether it has more to send."""
    cdef int i
    if a.state == BARE_ASKING:
        if a.ask_due:
            shake(t, a, b)
        return False
    if a.welcome_due:
        shake(t, a, b)
    if a.probe_due and has_room(b):
        probe_most(t, a, b)
    if a.base_due and has_room(b):
        probe_base(t, a, b)
    for i in range(TURN):
        if not has_room(b):
            return True
        if not one(t, a, b):
            a.last_words = False
            return False
    return True


cdef void bare_build(Bare *t, vtl_batch *b, uint64_t now) noexcept nogil:
    cdef BareAssociation *a
    cdef uint32_t i
    t.now = now
    for i in range(t.answers_n):                # there is room: ANSWERS are fewer than a batch has
        memcpy(written(b), t.answers[i].bytes, t.answers[i].n)
        put(b, &t.answers[i].to, t.answers[i].n).unproven = True
    t.answers_n = 0
    while t.ready.first != NULL and has_room(b):
        a = <BareAssociation *>t.ready.first.owner
        link_remove(&t.ready, &a.ready)
        if turn(t, a, b):
            link_append(&t.ready, &a.ready, a)
