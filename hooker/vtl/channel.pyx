"""Channels: the outgoing queue of one flow, without windows, order and reassembly.

1. What a channel sends is in items: a block's bytes (borrowed), a control message (copied), the report of a packet.
   A packet's record points to its items, and an item counts the packets on their way that carry it.
2. An item is in one list. A block: fresh → flight, lost: again → flight, acknowledged: free, but for one of many in
   Assoc.done. So nothing is searched for. A block of which a datagram takes a part is split in two.
3. Acknowledged bytes go back in the next vtl_build: before, a datagram that repeats them may not be sent yet, and who
   reads it takes positions for what they say.
4. An item that nobody wants any more (its channel is closed, another packet was acknowledged) is an orphan until no
   packet carries it.
5. A report is composed for each packet anew. When it is lost, another is due, unless a newer one left since.
6. Where blocks are given up, a hole takes the place of each. It goes out as a control message does; its record counts
   as a block's.
7. What the peer can make long: control messages, of a channel (MAX_SAID) and of the association's own (MAX_OWN), all
   out of the budget. Blocks are bounded by vtl_config.channel_queue.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from hooker.includes.cache cimport fetch_ahead
from hooker.includes.links cimport link_append, link_prepend
from hooker.vtl.api cimport VTL_BLOCK_EVERY, VTL_BLOCK_FLAGS, vtl_sink
from hooker.vtl.budget cimport budget_hold, budget_let_go, budget_room, stranger_known
from hooker.vtl.core cimport *
from hooker.vtl.pages cimport pages_free, pages_give, pages_take
from hooker.vtl.reliability.interface cimport MANY
from hooker.vtl.wire cimport MAX_HOLE

cdef enum:
    MAX_SAID = 32              # control messages of a channel that are not acknowledged
    MAX_OWN = 256              # of an association's own
    WORD_COST = 192            # bytes of the budget, for each of those
    DEFAULT_QUEUE = 4 << 20    # bytes of one channel
    MAX_QUEUE = 1 << 30
    MAX_BLOCK = 1 << 24        # bytes of one block
    MOST_OWED = 1 << 30        # bytes of one release()
    AHEAD = 8                  # spare items: they are fetched before they are taken
    NEAR = 32                  # items that are looked at to put a lost one in its place


# --- items

cdef Item *item_new(Endpoint *ep, uint8_t kind) noexcept nogil:
    cdef Item *it
    if ep.spares > 0:
        ep.spares -= 1
        it = ep.spare[ep.spares]
        if ep.spares >= AHEAD:
            fetch_ahead(ep.spare[ep.spares - AHEAD])
    else:
        it = <Item *>malloc(sizeof(Item))
        if it == NULL:
            return NULL
    it.list = NULL
    it.channel = NULL
    it.data = NULL
    it.owner = NULL
    it.n = it.on_way = it.left_at = 0
    it.kind = kind
    it.flags = it.repeats = 0
    return it


cdef Item *word_new(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef Word *w = <Word *>calloc(1, sizeof(Word))
    if w == NULL:
        return NULL
    memcpy(w.bytes, p, n)
    w.item.kind = I_MESSAGE
    w.item.data = w.bytes
    w.item.n = n
    return &w.item


cdef void item_free(Endpoint *ep, Item *it) noexcept nogil:
    if it.kind == I_MESSAGE or ep.spares == MAX_SPARE:
        free(it)
        return
    ep.spare[ep.spares] = it
    ep.spares += 1


cdef void item_spare(Endpoint *ep, Item *it) noexcept nogil:
    if it != NULL:
        item_free(ep, it)


cdef void disown(Assoc *a, Item *it) noexcept nogil:
    """It is in no list, and nobody wants it."""
    it.channel = NULL
    if it.on_way > 0:
        item_append(&a.orphans, it)
    else:
        item_free(a.ep, it)


cdef inline bint is_block(const Item *it) noexcept nogil:
    return it.kind == I_BLOCK

cdef inline bint in_flight(Assoc *a, const Item *it) noexcept nogil:
    """Not waiting to be sent, and still wanted."""
    return it.list == (&it.channel.flight if it.channel != NULL else &a.words_out)

cdef inline bint unwanted(Assoc *a, const Item *it) noexcept nogil:
    return it.list == &a.orphans or it.list == &a.done

cdef inline int32_t behind(const Item *x, const Item *y) noexcept nogil:
    """Positions from y to x, as in RFC 9293 3.4."""
    return <int32_t>(x.position - y.position)


cdef Item *item_split(Item *it, uint32_t n) noexcept nogil:
    """Flags stay with the end, but one. Packets that carry it all are remembered with the end, too: when one of them is
    acknowledged, the beginning travels once more than it had to."""
    cdef Channel *c = it.channel
    cdef Item *part = item_new(c.assoc.ep, it.kind)
    if part == NULL:
        return NULL
    part.channel = c
    part.data = it.data
    part.owner = it.owner
    part.id = it.id
    part.position = it.position
    part.epoch = it.epoch
    part.flags = it.flags & VTL_BLOCK_EVERY
    part.repeats = it.repeats
    part.left_at = it.left_at
    part.n = n
    it.data += n
    it.position += n
    it.n -= n
    c.held += sizeof(Item)
    item_before(part, it, it.list)
    if it.list[0] == it:
        it.list[0] = part
    return part


cdef void item_leave(Assoc *a, Item *it) noexcept nogil:
    if not a.rel.plain and a.rel.ops.gives_up != NULL and is_block(it):
        note_left(a, it, it.list == &it.channel.again)
    if it.list != NULL:
        item_unlink(it)
    if is_block(it):
        it.channel.waiting -= it.n
        a.waiting -= it.n
    item_append(&it.channel.flight if it.channel != NULL else &a.words_out, it)
    it.on_way += 1


cdef void block_done(Assoc *a, Item *it) noexcept nogil:
    """Its bytes are to be given back, for whatever reason."""
    cdef Channel *c = it.channel
    if it.list != &c.flight:
        c.waiting -= it.n
        a.waiting -= it.n
    c.unacked -= it.n
    c.held -= it.n + sizeof(Item)
    item_unlink(it)
    keep_account(a, it)
    assoc_unfinished(a)


cdef void keep_account(Assoc *a, Item *it) noexcept nogil:
    """One item of a.done says it for all that follow each other and have one owner: this one is in the near cache now."""
    cdef Item *last = a.done.prev if a.done != NULL else NULL
    if last == NULL or last.owner != it.owner or last.n > MOST_OWED - it.n:
        it.channel = NULL
        item_append(&a.done, it)
    else:
        last.n += it.n
        disown(a, it)


cdef void word_done(Assoc *a, Item *it) noexcept nogil:
    if it.channel != NULL:
        it.channel.said -= 1
    else:
        a.said -= 1
    budget_let_go(a, WORD_COST)
    item_unlink(it)
    disown(a, it)


cdef void item_gone(Assoc *a, Item *it) noexcept nogil:
    """A block's bytes stay until the datagram is sent, as if it had been acknowledged at once."""
    if is_block(it):
        block_done(a, it)
    elif it.kind == I_MESSAGE:
        word_done(a, it)
    else:
        item_free(a.ep, it)


# --- what is given up

cdef inline uint32_t milliseconds(const Assoc *a) noexcept nogil:
    return <uint32_t>(a.ep.now // 1000000)


cdef void note_left(Assoc *a, Item *it, bint again) noexcept nogil:
    if not again:
        it.left_at = milliseconds(a)
    elif it.repeats < MANY - 1:
        it.repeats += 1


cdef void note_arrived(const Item *it) noexcept nogil:
    cdef Channel *c = it.channel
    cdef uint32_t end = it.position + it.n
    if c.has_top and c.top_id == it.id and c.top_epoch == it.epoch and <int32_t>(end - c.top) <= 0:
        return
    c.has_top = True
    c.top_id, c.top_epoch, c.top = it.id, it.epoch, end


cdef bint is_given_up(Assoc *a, const Item *it) noexcept nogil:
    """Never the tail: the peer has bytes behind it."""
    cdef const Channel *c = it.channel
    if a.rel.ops.gives_up == NULL or not 0 < it.n <= MAX_HOLE:
        return False
    if not c.has_top or c.top_id != it.id or c.top_epoch != it.epoch or <int32_t>(it.position + it.n - c.top) >= 0:
        return False
    return a.rel.ops.gives_up(&a.rel, it.repeats, <uint64_t>(milliseconds(a) - it.left_at) * 1000000)


cdef inline bint widens(const Item *hole, const Item *it) noexcept nogil:
    """It is right behind that hole, which is not on its way."""
    return (hole != NULL and hole.kind == I_HOLE and hole.flags == 0 and hole.n + it.n <= MAX_HOLE
            and it.position == hole.position + hole.n and it.id == hole.id and it.epoch == hole.epoch)


cdef bint give_up(Assoc *a, Item *it) noexcept nogil:
    """False: no memory to say so."""
    cdef Channel *c = it.channel
    cdef Item *hole = c.words.prev if c.words != NULL else NULL
    if not widens(hole, it):
        hole = item_new(a.ep, I_HOLE)
        if hole == NULL:
            return False
        hole.channel = c
        hole.id, hole.position, hole.epoch = it.id, it.position, it.epoch
        c.held += sizeof(Item)
        item_append(&c.words, hole)
    hole.n += it.n
    hole.flags = it.flags
    a.given_up += it.n
    block_done(a, it)
    channel_talk(c)
    return True


cdef void channel_give_up(Channel *c) noexcept nogil:
    while c.again != NULL and is_given_up(c.assoc, c.again) and give_up(c.assoc, c.again):
        pass


# --- queues

cdef Channel *channel_new(Assoc *a, void *user) noexcept nogil:
    cdef Channel *c
    if a.n_channels == MAX_CHANNELS:
        return NULL
    c = <Channel *>pages_take(&a.ep.channels)
    if c == NULL:
        return NULL
    c.assoc = a
    c.user = user
    link(&a.channels, c)
    a.n_channels += 1
    a.idle_since = 0
    stranger_known(a)
    assoc_touch(a)
    return c


cdef void link(Channel **all, Channel *c) noexcept nogil:
    c.prev = NULL
    c.next = all[0]
    if c.next != NULL:
        c.next.prev = c
    all[0] = c


cdef void unlink(Channel **all, Channel *c) noexcept nogil:
    if c.prev != NULL:
        c.prev.next = c.next
    else:
        all[0] = c.next
    if c.next != NULL:
        c.next.prev = c.prev


cdef void make_busy(Channel *c) noexcept nogil:
    if not c.busy.inside:
        c.credit = TURN
        busy_add(c)
    assoc_ready(c.assoc)


cdef void hurry(Channel *c) noexcept nogil:
    """Its turn is next: a probe is to carry what it has."""
    busy_remove(c)
    link_prepend(&c.assoc.busy, &c.busy, c)


cdef void channel_talk(Channel *c) noexcept nogil:
    assoc_ready(c.assoc)
    if not c.talking.inside:
        link_append(&c.assoc.talking, &c.talking, c)


cdef inline uint32_t queue_limit(const Endpoint *ep) noexcept nogil:
    return min(ep.cfg.channel_queue, <uint64_t>MAX_QUEUE) if ep.cfg.channel_queue > 0 else DEFAULT_QUEUE


cdef int channel_send(Channel *c, const vtl_block *b, void *owner) noexcept nogil:
    """A single block may exceed the limit: what can never be sent would never be reported as such."""
    cdef uint32_t cost = b.n + sizeof(Item)
    cdef Item *it
    if b.n > MAX_BLOCK or (c.held > 0 and c.held + cost > queue_limit(c.assoc.ep)):
        return -1
    it = item_new(c.assoc.ep, I_BLOCK)
    if it == NULL:
        return -1
    it.channel = c
    it.data = b.data
    it.owner = owner
    it.id = b.id
    it.position = b.position
    it.n = b.n
    it.epoch = b.epoch
    it.flags = b.flags & VTL_BLOCK_FLAGS
    c.held += cost
    c.unacked += b.n
    c.waiting += b.n
    c.assoc.waiting += b.n
    item_append(&c.fresh, it)
    make_busy(c)
    return 0


cdef inline const Item *newer(Item *first, const Item *best) noexcept nogil:
    cdef Item *at = first
    cdef uint32_t i
    for i in range(NEAR if first != NULL else 0):
        at = at.prev                            # of a ring: the last one comes first
        if is_block(at) and (best == NULL or behind(at, best) > 0):
            best = at
        if at == first:
            break
    return best


cdef const Item *channel_newest(const Channel *c) noexcept nogil:
    """The block with the highest position among the last of each list."""
    return newer(c.fresh, newer(c.again, newer(c.flight, NULL)))


cdef int channel_say(Channel *c, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef Item *it
    if not 0 < n <= VTL_MAX_MESSAGE or c.said == MAX_SAID or not may_say(c.assoc):
        return -1
    it = word_new(p, n)
    if it == NULL:
        return -1
    it.channel = c
    c.said += 1
    budget_hold(c.assoc, WORD_COST)
    item_append(&c.words, it)
    channel_talk(c)
    return 0


cdef bint may_say(Assoc *a) noexcept nogil:
    """The peer asks for answers and acknowledges none: they come out of its budget."""
    if budget_room(a) < WORD_COST:
        a.ep.count.over_budget += 1
        return False
    return True


cdef int assoc_say(Assoc *a, const uint8_t *p, uint32_t n) noexcept nogil:
    cdef Item *it
    if not 0 < n <= VTL_MAX_MESSAGE or a.said == MAX_OWN or not may_say(a):
        return -1
    it = word_new(p, n)
    if it == NULL:
        return -1
    a.said += 1
    budget_hold(a, WORD_COST)
    item_append(&a.words, it)
    assoc_ready(a)
    return 0


# --- acknowledged or lost

cdef void put_by_position(Channel *c, Item *it) noexcept nogil:
    """Into c.again. Losses are mostly found in order, so its place is near an end; elsewhere it is only near its place."""
    cdef Item *at = c.again
    cdef uint32_t i
    if at == NULL:
        item_append(&c.again, it)
    elif behind(it, at) < 0:
        item_prepend(&c.again, it)
    else:
        for i in range(NEAR):
            at = at.prev
            if behind(it, at) >= 0:
                break
        if at.next == c.again:
            item_append(&c.again, it)
        else:
            item_before(it, at.next, &c.again)


cdef void send_again(Assoc *a, Item *it) noexcept nogil:
    cdef Channel *c = it.channel
    item_unlink(it)
    if not is_block(it):
        item_prepend(&c.words if c != NULL else &a.words, it)
        if c != NULL:
            channel_talk(c)
        else:
            assoc_ready(a)
        return
    c.waiting += it.n
    a.waiting += it.n
    put_by_position(c, it)
    make_busy(c)


cdef void report_again(Item *it) noexcept nogil:
    cdef Channel *c = it.channel
    if it.id == c.reports:                          # else a newer one has left
        c.report_due = True
        channel_talk(c)


cdef void item_acked(Assoc *a, Item *it) noexcept nogil:
    it.on_way -= 1
    if unwanted(a, it):
        forget_orphan(a, it)
    elif is_block(it):
        if a.rel.ops.gives_up != NULL:
            note_arrived(it)
        block_done(a, it)
    elif it.kind == I_MESSAGE:
        word_done(a, it)
    else:
        if it.kind == I_HOLE:
            it.channel.held -= sizeof(Item)
        item_unlink(it)
        disown(a, it)


cdef void item_lost(Assoc *a, Item *it) noexcept nogil:
    it.on_way -= 1
    if unwanted(a, it):
        forget_orphan(a, it)
    elif it.kind == I_REPORT:
        report_again(it)
        item_unlink(it)
        disown(a, it)
    elif it.on_way == 0 and in_flight(a, it):
        if not (is_block(it) and is_given_up(a, it) and give_up(a, it)):
            send_again(a, it)


cdef inline void forget_orphan(Assoc *a, Item *it) noexcept nogil:
    if it.on_way == 0 and it.list == &a.orphans:
        item_unlink(it)
        item_free(a.ep, it)


cdef void item_repeat(Assoc *a, Item *it) noexcept nogil:
    if unwanted(a, it):
        return
    if it.kind == I_REPORT:
        report_again(it)
        return
    if in_flight(a, it):
        send_again(a, it)
    if is_block(it):
        hurry(it.channel)


# --- ends

cdef void channels_release(Assoc *a) noexcept nogil:
    cdef vtl_sink *k = &a.ep.sink
    cdef Item *it
    cdef void *owner
    cdef size_t n
    while a.done != NULL:
        owner = a.done.owner
        n = 0
        while a.done != NULL and a.done.owner == owner:
            it = a.done
            n += it.n
            item_unlink(it)
            disown(a, it)
        if n > 0:
            k.release(k.ctx, owner, n)


cdef void inherit(Assoc *a, Item *it) noexcept nogil:
    """A control message of a channel that is closed is the association's own, if there is room."""
    cdef bint sent = it.list == &it.channel.flight
    if a.said == MAX_OWN:
        word_done(a, it)
        return
    it.channel.said -= 1
    it.channel = NULL
    item_unlink(it)
    a.said += 1
    item_append(&a.words_out if sent else &a.words, it)


cdef void strip(Assoc *a, Item **list) noexcept nogil:
    """Everything out of a channel's list."""
    cdef Item *it
    while list[0] != NULL:
        it = list[0]
        if is_block(it):
            block_done(a, it)
        elif it.kind == I_MESSAGE:
            inherit(a, it)
        else:
            item_unlink(it)
            disown(a, it)


cdef void perhaps_idle(Assoc *a) noexcept nogil:
    if not assoc_in_use(a):
        a.idle_since = a.ep.now
    assoc_ready(a)


cdef bint channel_at_rest(const Channel *c) noexcept nogil:
    return not c.busy.inside and not c.talking.inside and c.flight == NULL


cdef void assoc_hold(Assoc *a) noexcept nogil:
    a.holds += 1
    a.idle_since = 0
    assoc_touch(a)


cdef void assoc_let_go(Assoc *a) noexcept nogil:
    a.holds -= 1
    perhaps_idle(a)


cdef void detach(Channel *c) noexcept nogil:
    """Out of its association, with nothing left to send."""
    cdef Assoc *a = c.assoc
    if c.busy.inside:
        busy_remove(c)
    if c.talking.inside:
        talking_remove(c)
    strip(a, &c.again)
    strip(a, &c.fresh)
    strip(a, &c.words)
    strip(a, &c.flight)
    unlink(&a.channels, c)
    c.assoc = NULL
    a.n_channels -= 1
    perhaps_idle(a)


cdef void channel_destroy(Channel *c) noexcept nogil:
    if c.assoc != NULL:
        detach(c)
    else:
        unlink(c.down_at, c)
    pages_give(c)


cdef void channels_down(Assoc *a) noexcept nogil:
    cdef vtl_sink *k = &a.ep.sink
    cdef Channel *c
    while a.channels != NULL:
        c = a.channels
        detach(c)
        link(&a.ep.down, c)
        c.down_at = &a.ep.down
        channels_release(a)
        k.channel_down(k.ctx, c.user, a.down_reason)


cdef void channels_restart(Assoc *a) noexcept nogil:
    """What was said goes out again, and first."""
    cdef Item *it
    channels_release(a)
    free_list(a.ep, &a.orphans)
    while a.words_out != NULL:
        it = a.words_out.prev
        item_unlink(it)
        it.on_way = 0
        item_prepend(&a.words, it)


cdef void free_list(Endpoint *ep, Item **list) noexcept nogil:
    cdef Item *it
    while list[0] != NULL:
        it = list[0]
        item_unlink(it)
        item_free(ep, it)


cdef void channels_free(Assoc *a) noexcept nogil:
    while a.channels != NULL:
        channel_destroy(a.channels)
    channels_release(a)
    free_list(a.ep, &a.words)
    free_list(a.ep, &a.words_out)
    free_list(a.ep, &a.orphans)


cdef void channels_free_down(Endpoint *ep) noexcept nogil:
    cdef Channel *c
    while ep.down != NULL:
        c = ep.down
        ep.down = c.next
        pages_give(c)
    pages_free(&ep.channels)
    while ep.spares > 0:
        ep.spares -= 1
        free(ep.spare[ep.spares])
