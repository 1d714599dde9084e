"""A transport without an engine, for tests and for who writes one: `Lone` runs it and keeps what it says.

Messages are the flow protocol's, as bytes (hooker.flow.messages). Associations and channels are numbers.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from hooker.flow.messages cimport MESSAGE_FINE, MSG_DATA, Message, message_bytes, read_message
from hooker.includes.clock cimport clock_ns
from hooker.includes.linux cimport close, epoll_create1, epoll_event, errno, hk_epoll_wait_ns
from hooker.transports.contract cimport *

import os

from hooker.flow.messages import MessageError

cdef enum:
    EVENTS = 64
    TAG = 4
    CLOEXEC = 0x80000


cdef void cb_assoc_up(void *ctx, Association *a) noexcept with gil:
    (<Lone>ctx).heard.append(("up", (<Lone>ctx).number_of(a)))


cdef void cb_assoc_down(void *ctx, Association *a, down_reason why) noexcept with gil:
    cdef Lone me = <Lone>ctx
    number = me.number_of(a)
    me.heard.append(("down", number, REASONS[<int>why]))
    me.assocs[number] = 0
    a.user = NULL


cdef void cb_message(void *ctx, Association *a, const Message *m, bint stable) noexcept with gil:
    cdef Lone me = <Lone>ctx
    me.heard.append(("message", me.number_of(a), message_bytes(m, False)))
    if stable and m.data_n:
        me.staying.append((<uint64_t>m.data, m.data[:m.data_n]))


cdef void cb_settle(void *ctx) noexcept with gil:
    cdef Lone me = <Lone>ctx
    me.settled += 1
    for at, text in me.staying:
        if memcmp(<const void *><uint64_t>at, <const char *><bytes>text, len(text)) == 0:
            me.stayed += len(text)
        else:
            me.moved += len(text)
    me.staying.clear()


cdef bint cb_report(void *ctx, void *user, Message *out) noexcept with gil:
    cdef Lone me = <Lone>ctx
    text = me.reports.get(<uint64_t>user)
    if text is None:
        return False
    return read_message(<const uint8_t *><const char *>text, len(text), False, out) == MESSAGE_FINE


cdef void cb_release(void *ctx, void *owner, size_t n) noexcept with gil:
    cdef Lone me = <Lone>ctx
    number = <uint64_t>owner
    me.lent[number][1] -= n
    me.heard.append(("release", number, n))


cdef void cb_channel_down(void *ctx, void *user) noexcept with gil:
    (<Lone>ctx).heard.append(("channel_down", <uint64_t>user))


cdef void cb_hole(void *ctx, Association *a, const Message *m) noexcept with gil:
    cdef Message head = m[0]
    head.data_n = 0
    (<Lone>ctx).heard.append(("hole", (<Lone>ctx).number_of(a), message_bytes(&head, False), m.data_n))


cdef void cb_failed(void *ctx, Transport *t) noexcept with gil:
    (<Lone>ctx).heard.append(("failed", (<Lone>ctx).handle.failure()))


cdef void nobody_cares(void *ctx, void *owner, size_t n) noexcept nogil:
    pass


REASONS = ("closed", "unreachable", "silent", "replaced", "key", "version", "protocol", "memory",
           "prototype", "name")


cdef class Lone:
    """`handle`: of hooker.transports.makers.make(); it is used up. `port` 0: any. Raises OSError.

    `heard` is what it has said, in order: ("up", association), ("down", association, reason), ("message",
    association, bytes), ("release", number of a loan, bytes), ("channel_down", channel),
    ("failed", why), ("hole", association, the head of its DATA, bytes). `settled`: batches. Of the bytes that
    were to stay until then `stayed` did, `moved` did not.
    """

    cdef Handle handle
    cdef Transport *t
    cdef int epoll_fd
    cdef readonly uint16_t port
    cdef public list heard
    cdef public dict reports                    # by channel: an ACKED
    cdef readonly dict lent                     # by the number of a loan: its message, bytes not released
    cdef readonly int settled
    cdef readonly uint64_t stayed, moved
    cdef list staying
    cdef dict assocs                            # pointers by number
    cdef dict channels
    cdef uint64_t numbers

    def __cinit__(self, Handle handle not None, uint16_t port=0):
        cdef int r
        self.handle, self.t = handle, handle.t
        handle.used = True
        self.heard, self.reports, self.lent, self.assocs, self.channels = [], {}, {}, {}, {}
        self.staying = []
        self.epoll_fd = epoll_create1(CLOEXEC)
        self.t.tag, self.t.epoll_fd = TAG, self.epoll_fd
        self.t.sink.ctx = <void *>self
        self.t.sink.assoc_up, self.t.sink.assoc_down = cb_assoc_up, cb_assoc_down
        self.t.sink.hole = cb_hole
        self.t.sink.message, self.t.sink.settle, self.t.sink.report = cb_message, cb_settle, cb_report
        self.t.sink.release, self.t.sink.channel_down = cb_release, cb_channel_down
        self.t.sink.failed = cb_failed
        r = self.t.ops.open(self.t, port, &self.port)
        if r < 0:
            raise OSError(-r, handle.failure() or os.strerror(-r))

    def shut(self):
        """All associations end without a word; what was lent comes back."""
        self.t.ops.shut(self.t)

    def __dealloc__(self):
        if self.t != NULL:
            self.t.sink.release = nobody_cares
            self.t.ops.free(self.t)
        if self.epoll_fd >= 0:
            close(self.epoll_fd)

    cdef uint64_t number_of(self, Association *a):
        if a.user == NULL:
            self.numbers += 1
            a.user = <void *>self.numbers
            self.assocs[self.numbers] = <uint64_t>a
        return <uint64_t>a.user

    cdef Association *association(self, number) except NULL:
        cdef uint64_t at = self.assocs[number]
        if at == 0:
            raise ValueError(f"association {number} is down")
        return <Association *>at

    cdef Channel *channel_at(self, number) except NULL:
        return <Channel *><uint64_t>self.channels[number]

    def turn(self, double seconds=0.0):
        """One round of the loop, which waits so long at most."""
        cdef epoll_event events[EVENTS]
        cdef uint64_t now = clock_ns(), at = self.t.ops.deadline(self.t)
        cdef uint64_t wait = <uint64_t>(seconds * 1e9)
        cdef uint64_t tag
        cdef int n, i
        wait = min(wait, at - now if at > now else 0)
        with nogil:
            n = hk_epoll_wait_ns(self.epoll_fd, events, EVENTS, wait)
        now = clock_ns()
        for i in range(n):
            tag = events[i].data.u64
            self.t.ops.ready(self.t, tag & OWN_TAG, events[i].events, now)
        self.t.ops.on_time(self.t, now)
        self.t.ops.flush(self.t, now)

    def connect(self, bytes ip not None, uint16_t port):
        """To a peer at an address of 16 bytes; the association's number."""
        cdef PeerAddress to
        cdef Association *a
        memset(&to, 0, sizeof(to))
        memcpy(to.ip, <const char *>ip, 16)
        to.port = port
        a = self.t.ops.connect(self.t, &to, clock_ns())
        if a == NULL:
            raise MemoryError("an association")
        return self.number_of(a)

    def peer(self, number):
        """Of an association that is there: address (16 bytes) and port."""
        cdef Association *a = self.association(number)
        cdef const PeerAddress *at = a.ops.peer(a)
        return (<const char *>at.ip)[:16], at.port

    def repairs(self, number):
        """Whether what it loses is sent again."""
        cdef Association *a = self.association(number)
        return bool(self.t.properties & ~a.lacks & T_REPAIRS)

    def fileno(self):
        """Readable when turn() has something to do."""
        return self.epoll_fd

    def deadline(self):
        """Seconds until turn() has something to do anyway; None: never."""
        cdef uint64_t now = clock_ns(), at = self.t.ops.deadline(self.t)
        return None if at == UINT64_MAX else (at - now) * 1e-9 if at > now else 0.0

    def is_up(self, number):
        cdef Association *a = <Association *><uint64_t>self.assocs[number]
        return a != NULL and bool(a.ops.is_up(a))

    def patience(self, number):
        cdef Association *a = self.association(number)
        return a.ops.patience(a) * 1e-9

    def say(self, number, bytes message not None):
        """Whether it was taken. Raises MessageError for what is no message."""
        cdef Association *a = self.association(number)
        cdef Message m
        read(message, &m)
        return a.ops.say(a, &m) == 0

    def close(self, number):
        cdef Association *a = self.association(number)
        a.ops.close(a, clock_ns())

    def hold(self, number):
        cdef Association *a = self.association(number)
        a.ops.hold(a)

    def stats(self, number):
        cdef Association *a = self.association(number)
        cdef uint8_t row[ROW_SIZE]
        a.ops.stats(a, row)
        return self.handle.row(row)

    def counters(self):
        self.t.ops.note(self.t)
        return self.handle.counted() | {"bad_messages": self.t.bad_messages}

    @property
    def properties(self):
        return self.t.properties

    def channel(self, number):
        """A channel's number; 0: there is none to be had."""
        cdef Association *a = self.association(number)
        cdef Channel *c
        self.numbers += 1
        c = a.ops.channel(a, <void *>self.numbers)
        if c == NULL:
            return 0
        self.channels[self.numbers] = <uint64_t>c
        return self.numbers

    def channel_close(self, number):
        cdef Channel *c = self.channel_at(number)
        del self.channels[number]
        c.ops.channel_close(c)

    def send(self, number, bytes message not None, uint16_t segment=0):
        """Of DATA (of segments of so many bytes) the number of its loan, or True; False: it was not taken."""
        cdef Channel *c = self.channel_at(number)
        cdef Message m
        cdef uint64_t owner = 0
        read(message, &m)
        m.segment = segment
        if m.type == MSG_DATA:
            self.numbers += 1
            owner = self.numbers
            self.lent[owner] = [message, m.data_n]
        if c.ops.send(c, &m, <void *>owner) < 0:
            self.lent.pop(owner, None)
            return False
        return owner or True

    def report(self, number):
        cdef Channel *c = self.channel_at(number)
        c.ops.report(c)

    def waiting(self, number):
        """Bytes of DATA that wait, of the channel and of all beside it; and that are not released."""
        cdef Channel *c = self.channel_at(number)
        return c.ops.waiting(c), c.ops.all_waiting(c), c.ops.unacked(c)

    def at_rest(self, number):
        cdef Channel *c = self.channel_at(number)
        return bool(c.ops.at_rest(c))

    def newest(self, number):
        """Of the DATA that is not released: position and length of the highest; None: there is none."""
        cdef Channel *c = self.channel_at(number)
        cdef Message m
        return (m.position, m.data_n) if c.ops.newest(c, &m) else None


cdef int read(bytes text, Message *m) except -1:
    if read_message(<const uint8_t *><const char *>text, len(text), False, m) != MESSAGE_FINE:
        raise MessageError("no message of the flow protocol")
    return 0
