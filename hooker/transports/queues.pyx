"""What an association has to send, and how it becomes batches, or pieces for datagrams.

1. Control messages go first: those of nobody's channel, then those of channels, each with its report. Then
   DATA; channels with DATA take turns by bytes (deficit round robin, Shreedhar and Varghese 1996).
2. DATA is given up when it has gone to the kernel, which has a copy then. It goes by shared_release().
3. What a peer that reads nothing can make long: control messages, of a channel (MAX_SAID) and of the
   association's own (MAX_OWN), all out of its source's share. DATA is bounded by CHANNEL_QUEUE.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from hooker.flow.messages cimport (
    CRC_SIZE, DATA_OPENERS, FLAG_STAMPS, MSG_ACKED, MSG_DATA, Message, crc32c, sign_message, write_message,
)
from hooker.includes.bytes cimport store32
from hooker.includes.links cimport LinkList, link_append, link_prepend, link_remove
from hooker.transports.contract cimport Channel
from hooker.transports.sources cimport source_give, source_hold

cdef enum:
    MAX_SAID = 32              # control messages of a channel that wait
    MAX_OWN = 256              # of an association's own
    MAX_SPARE = 4096           # items kept for the next ones


cdef inline QueueChannel *Q(const Channel *c) noexcept nogil:
    return <QueueChannel *>c


# ---- words -------------------------------------------------------------------------------------------

cdef uint32_t write_frame(const QueueShared *s, uint8_t *frame, const Message *m) noexcept nogil:
    """Of a control message; its bytes."""
    cdef uint32_t n = write_message(frame + LENGTH_SIZE, m)
    if s.signed:
        n = sign_message(frame + LENGTH_SIZE, n)
    store32(frame, n)
    return LENGTH_SIZE + n


cdef int word_add(Outgoing *o, WordList *l, uint32_t most, const Message *m) noexcept nogil:
    cdef Word *w
    if l.n >= most or (o.source != NULL and not source_hold(o.shared.sources, o.source, sizeof(Word))):
        return -1
    w = <Word *>malloc(sizeof(Word))
    if w == NULL:
        if o.source != NULL:
            source_give(o.shared.sources, o.source, sizeof(Word))
        return -1
    w.next = NULL
    w.n = write_frame(o.shared, w.bytes, m)
    if l.last != NULL:
        l.last.next = w
    else:
        l.first = w
    l.last = w
    l.n += 1
    return 0


cdef Word *word_first(WordList *l) noexcept nogil:
    cdef Word *w = l.first
    l.first = w.next
    if l.first == NULL:
        l.last = NULL
    l.n -= 1
    return w


cdef void word_free(Outgoing *o, Word *w) noexcept nogil:
    if o.source != NULL:
        source_give(o.shared.sources, o.source, sizeof(Word))
    free(w)


cdef int out_say(Outgoing *o, const Message *m) noexcept nogil:
    return word_add(o, &o.words, MAX_OWN, m)


# ---- items -------------------------------------------------------------------------------------------

cdef Item *item_new(QueueShared *s) noexcept nogil:
    cdef Item *it = s.spare
    if it == NULL:
        return <Item *>malloc(sizeof(Item))
    s.spare = it.next
    s.spares -= 1
    return it


cdef inline void item_done(QueueShared *s, Item *it) noexcept nogil:
    it.next = s.done
    s.done = it


cdef void shared_release(QueueShared *s) noexcept nogil:
    cdef Item *it
    cdef void *owner
    cdef size_t n
    while s.done != NULL:
        owner, n = s.done.owner, 0
        while s.done != NULL and s.done.owner == owner:
            it = s.done
            s.done = it.next
            n += it.n
            if s.spares < MAX_SPARE:
                it.next = s.spare
                s.spare = it
                s.spares += 1
            else:
                free(it)
        if n:
            s.sink.release(s.sink.ctx, owner, n)


cdef void shared_end(QueueShared *s) noexcept nogil:
    cdef Item *it
    shared_release(s)
    while s.spare != NULL:
        it = s.spare
        s.spare = it.next
        free(it)
    s.spares = 0


# ---- channels ----------------------------------------------------------------------------------------

cdef inline QueueChannel *first_of(const LinkList *l) noexcept nogil:
    return <QueueChannel *>l.first.owner


cdef void talk(QueueChannel *c) noexcept nogil:
    if not c.talking.inside:
        link_append(&c.out.talking, &c.talking, c)


cdef Channel *channel_new(Outgoing *o, void *user) noexcept nogil:
    cdef QueueChannel *c = <QueueChannel *>calloc(1, sizeof(QueueChannel))
    if c == NULL:
        return NULL
    c.base.ops, c.out, c.user = o.shared.ops, o, user
    link_prepend(&o.all, &c.one, c)
    o.channels += 1
    return &c.base


cdef void strip(QueueChannel *c) noexcept nogil:
    """Its DATA is dropped; what was said is the association's own from now on, if there is room."""
    cdef Outgoing *o = c.out
    cdef Item *it
    cdef Word *w
    o.waiting -= c.waiting
    c.waiting = c.held = 0
    while c.first != NULL:
        it = c.first
        c.first = it.next
        item_done(o.shared, it)
    c.last = NULL
    while c.words.first != NULL:
        w = word_first(&c.words)
        if o.words.n >= MAX_OWN:
            word_free(o, w)
            continue
        w.next = NULL
        if o.words.last != NULL:
            o.words.last.next = w
        else:
            o.words.first = w
        o.words.last = w
        o.words.n += 1


cdef void detach(QueueChannel *c) noexcept nogil:
    cdef Outgoing *o = c.out
    if c.busy.inside:
        link_remove(&o.busy, &c.busy)
    if c.talking.inside:
        link_remove(&o.talking, &c.talking)
    strip(c)
    link_remove(&o.all, &c.one)
    o.channels -= 1
    c.out = NULL


cdef void channel_free(Channel *base) noexcept nogil:
    cdef QueueChannel *c = Q(base)
    if c.out != NULL:
        detach(c)
    free(c)


cdef int channel_data(QueueChannel *c, const Message *m, void *owner) noexcept nogil:
    """One that is larger than the queue is taken when it is alone: else it could never be sent."""
    cdef uint64_t cost = m.data_n + sizeof(Item)
    cdef Item *it
    if c.held > 0 and c.held + cost > CHANNEL_QUEUE:
        return -1
    it = item_new(c.out.shared)
    if it == NULL:
        return -1
    it.next, it.data, it.owner, it.n = NULL, m.data, owner, m.data_n
    it.segment, it.into = m.segment, 0
    it.token, it.position, it.epoch, it.flags = m.token, m.position, m.epoch, m.flags & ~<uint8_t>FLAG_STAMPS
    if c.last != NULL:
        c.last.next = it
    else:
        c.first = it
    c.last = it
    c.held += cost
    c.waiting += it.n
    c.out.waiting += it.n
    if not c.busy.inside:
        link_append(&c.out.busy, &c.busy, c)
    return 0


cdef int channel_send(Channel *base, const Message *m, void *owner) noexcept nogil:
    cdef QueueChannel *c = Q(base)
    if c.out == NULL:
        return -1
    if m.type == MSG_DATA:
        return channel_data(c, m, owner)
    if m.type == MSG_ACKED and not m.blocks:
        channel_report(base)
        return 0
    if word_add(c.out, &c.words, MAX_SAID, m) < 0:
        return -1
    talk(c)
    return 0


cdef void channel_report(Channel *base) noexcept nogil:
    cdef QueueChannel *c = Q(base)
    if c.out == NULL:
        return
    c.report_due = True
    talk(c)


cdef uint64_t channel_waiting(const Channel *c) noexcept nogil:
    return Q(c).waiting


cdef uint64_t channel_all_waiting(const Channel *c) noexcept nogil:
    return Q(c).out.waiting if Q(c).out != NULL else 0


cdef bint channel_newest(const Channel *c, Message *out) noexcept nogil:
    cdef const Item *it = Q(c).last
    if it == NULL:
        return False
    memset(out, 0, sizeof(Message))
    out.type, out.flags, out.epoch, out.position = MSG_DATA, it.flags, it.epoch, it.position
    out.token, out.data, out.data_n = it.token, it.data, it.n
    return True


cdef bint channel_at_rest(const Channel *c) noexcept nogil:
    return not Q(c).busy.inside and not Q(c).talking.inside


# ---- frames ------------------------------------------------------------------------------------------

cdef bint out_wants(const Outgoing *o) noexcept nogil:
    return o.words.first != NULL or o.talking.first != NULL or o.busy.first != NULL


cdef bint out_talks(const Outgoing *o) noexcept nogil:
    return o.words.first != NULL or o.talking.first != NULL


cdef inline bint has_room(const Batch *b, uint32_t most) noexcept nogil:
    """For one frame more."""
    return (b.n + 3 <= BATCH_IOV and b.used + FRAME_ROOM <= sizeof(b.room) and b.bytes < most
            and b.messages < BATCH_MESSAGES)


cdef void put_part(Batch *b, const void *p, uint32_t n) noexcept nogil:
    b.iov[b.n].iov_base, b.iov[b.n].iov_len = <void *>p, n
    b.n += 1
    b.bytes += n


cdef void put_apart(Batch *b, const uint8_t *frame, uint32_t n) noexcept nogil:
    """Without its length, for the kernel knows where it ends."""
    cdef uint8_t *at = b.room + b.used
    memcpy(at, frame + LENGTH_SIZE, n - LENGTH_SIZE)
    b.used += n - LENGTH_SIZE
    b.begins[b.messages] = b.n
    b.messages += 1
    put_part(b, at, n - LENGTH_SIZE)


cdef void put_head(Batch *b, const uint8_t *frame, uint32_t n) noexcept nogil:
    """Behind the one before, in one part with it if nothing is between them."""
    cdef uint8_t *at = b.room + b.used
    if b.apart:
        put_apart(b, frame, n)
        return
    memcpy(at, frame, n)
    b.used += n
    if b.n and <uint8_t *>b.iov[b.n - 1].iov_base + b.iov[b.n - 1].iov_len == at:
        b.iov[b.n - 1].iov_len += n
        b.bytes += n
    else:
        put_part(b, at, n)


cdef void put_words(Outgoing *o, WordList *l, Batch *b, uint32_t most) noexcept nogil:
    cdef Word *w
    while l.first != NULL and has_room(b, most):
        w = word_first(l)
        put_head(b, w.bytes, w.n)
        word_free(o, w)


cdef void put_report(QueueChannel *c, Batch *b) noexcept nogil:
    cdef Sink *k = c.out.shared.sink
    cdef uint8_t frame[FRAME_ROOM]
    cdef Message m
    c.report_due = False
    if k.report(k.ctx, c.user, &m):
        put_head(b, frame, write_frame(c.out.shared, frame, &m))


cdef Item *cut(QueueChannel *c, uint32_t most) noexcept nogil:
    """A piece of its first DATA, which is done with. Flags stay with the end, but one. NULL: no memory."""
    cdef Item *it = c.first
    cdef Item *part = it
    if it.n > most:
        part = item_new(c.out.shared)
        if part == NULL:
            return NULL
        part[0] = it[0]
        part.n, part.flags = most, it.flags & DATA_OPENERS
        it.data += most
        it.position += most
        it.n -= most
    else:
        c.first = it.next
        if c.first == NULL:
            c.last = NULL
        c.held -= sizeof(Item)
    c.held -= part.n
    c.waiting -= part.n
    c.out.waiting -= part.n
    item_done(c.out.shared, part)
    return part


cdef bint piece_take(QueueChannel *c, Piece *out) noexcept nogil:
    cdef const Item *part = cut(c, c.out.shared.cut)
    cdef Message m
    if part == NULL:
        return False
    m.type, m.flags, m.epoch = MSG_DATA, part.flags, part.epoch
    m.position, m.token = part.position, part.token
    out.item = part
    out.head_n = write_message(out.head + LENGTH_SIZE, &m)
    store32(out.head, out.head_n + part.n + (CRC_SIZE if c.out.shared.signed else 0))
    out.head_n += LENGTH_SIZE
    return True


cdef bint put_piece(QueueChannel *c, Batch *b, uint32_t *left) noexcept nogil:
    """A frame of its first DATA. False: there is no memory."""
    cdef uint8_t sum_[CRC_SIZE]
    cdef Piece p
    if not piece_take(c, &p):
        return False
    put_head(b, p.head, p.head_n)
    if p.item.n:
        put_part(b, p.item.data, p.item.n)
    if c.out.shared.signed:
        store32(sum_, crc32c(crc32c(0, p.head + LENGTH_SIZE, p.head_n - LENGTH_SIZE), p.item.data, p.item.n))
        put_head(b, sum_, CRC_SIZE)
    left[0] = left[0] - p.item.n if left[0] > p.item.n else 0
    return True


cdef void out_fill_words(Outgoing *o, Batch *b, uint32_t most) noexcept nogil:
    cdef QueueChannel *c
    put_words(o, &o.words, b, most)
    while o.talking.first != NULL and has_room(b, most):
        c = first_of(&o.talking)
        put_words(o, &c.words, b, most)
        if c.report_due and has_room(b, most):
            put_report(c, b)
        if c.words.first == NULL and not c.report_due:
            link_remove(&o.talking, &c.talking)


cdef void out_fill(Outgoing *o, Batch *b, uint32_t most) noexcept nogil:
    cdef QueueChannel *c
    cdef uint32_t left
    out_fill_words(o, b, most)
    while o.busy.first != NULL and has_room(b, most):
        c = first_of(&o.busy)
        left = CUT
        while c.first != NULL and left and has_room(b, most):
            if not put_piece(c, b, &left):
                return
        link_remove(&o.busy, &c.busy)
        if c.first != NULL:
            link_append(&o.busy, &c.busy, c)


# ---- without frames ----------------------------------------------------------------------------------

cdef uint32_t out_list(Outgoing *o, WordList *l, uint8_t *room, uint32_t n) noexcept nogil:
    cdef uint32_t used = 0
    cdef Word *w
    while l.first != NULL and used + l.first.n - LENGTH_SIZE <= n:
        w = word_first(l)
        memcpy(room + used, w.bytes + LENGTH_SIZE, w.n - LENGTH_SIZE)
        used += w.n - LENGTH_SIZE
        word_free(o, w)
    return used


cdef uint32_t out_report(QueueChannel *c, uint8_t *room) noexcept nogil:
    cdef Sink *k = c.out.shared.sink
    cdef Message m
    c.report_due = False
    return write_message(room, &m) if k.report(k.ctx, c.user, &m) else 0


cdef uint32_t out_words(Outgoing *o, uint8_t *room, uint32_t n) noexcept nogil:
    cdef uint32_t used = out_list(o, &o.words, room, n)
    cdef QueueChannel *c
    while o.talking.first != NULL:
        c = first_of(&o.talking)
        used += out_list(o, &c.words, room + used, n - used)
        if c.report_due and n - used >= MAX_CONTROL:
            used += out_report(c, room + used)
        if c.words.first != NULL or c.report_due:
            return used
        link_remove(&o.talking, &c.talking)
    return used


cdef uint32_t out_next(const Outgoing *o) noexcept nogil:
    return max(first_of(&o.busy).first.n, <uint32_t>1) if o.busy.first != NULL else 0


cdef uint32_t whole_segments(Item *it, uint32_t most) noexcept nogil:
    """So many of `most` bytes that the next piece begins where a segment does, if one is not larger."""
    cdef uint32_t segment = it.segment, left
    if segment == 0 or it.n <= most:
        return most
    left = segment - it.into
    if left > most:
        it.into += <uint16_t>most
        return most
    it.into = 0
    return left + (most - left) // segment * segment


cdef const Item *out_piece(Outgoing *o, uint32_t most) noexcept nogil:
    cdef QueueChannel *c
    cdef const Item *part
    if o.busy.first == NULL:
        return NULL
    c = first_of(&o.busy)
    part = cut(c, whole_segments(c.first, most))
    if part == NULL:
        return NULL
    o.turn = o.turn if o.turn else <uint32_t>CUT
    o.turn = o.turn - part.n if o.turn > part.n else 0
    if c.first == NULL or o.turn == 0:
        o.turn = 0
        link_remove(&o.busy, &c.busy)
        if c.first != NULL:
            link_append(&o.busy, &c.busy, c)
    return part


# ---- the end -----------------------------------------------------------------------------------------

cdef void out_down(Outgoing *o) noexcept nogil:
    cdef Sink *k = o.shared.sink
    cdef QueueChannel *c
    while o.all.first != NULL:
        c = first_of(&o.all)
        detach(c)
        k.channel_down(k.ctx, c.user)


cdef void out_end(Outgoing *o) noexcept nogil:
    while o.all.first != NULL:
        detach(first_of(&o.all))
    while o.words.first != NULL:
        word_free(o, word_first(&o.words))
