"""A transport of datagrams that repeats nothing: messages of the flow protocol as they are, one segment of
the applications' TCPs in each. These repeat what is lost and find out how much the path takes.

Here are its carrier, the batches and the engine's calls. Beside it: bare_life.pyx, associations;
bare_out.pyx, what is sent; bare_wire.pxd, how it looks.
"""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from hooker.carriers.contract cimport *
from hooker.flow.messages cimport MAX_CONTROL, MSG_HELLO, Message, write_message
from hooker.includes.clock cimport clock_ns
from hooker.includes.linux cimport EMSGSIZE, EOPNOTSUPP, EPOLLERR, EPOLLIN, errno, iovec
from hooker.includes.timers cimport timers_free, timers_next, timers_reserve
from hooker.transports.bare_life cimport *
from hooker.transports.bare_out cimport bare_build
from hooker.transports.bare_state cimport *
from hooker.transports.contract cimport *
from hooker.transports.queues cimport *
from hooker.transports.sources cimport FAIR_SOURCES, sources_init
from hooker.vtl.api cimport vtl_batch, vtl_datagram

from hooker.errors import ConfigurationError

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef enum:
    LINK_HEADERS = 28          # bytes of IPv4 and UDP: Settings.datagrams are what is left of links by these
    LARGEST = 1472             # bytes of a datagram: 1,448 of DATA
    DATAGRAMS = 512            # of one batch
    SCRATCH = 256 << 10        # bytes of headers and control messages in a batch
    BUILDS = 16                # batches in one round
    FULL_PAUSE = 100000        # ns until a full socket is tried again
    PATH_ERRORS = 16           # in one round
    LATE_BATCHES = 256         # of datagrams, after a silence
    BUDGET = 64 << 20          # bytes that peers may make us hold, if the engine's own is not less
    OPTION_TRANSPORT = 1


cdef struct BareStats:         # as in a row
    uint64_t srtt_ns, rttvar_ns, min_rtt_ns, datagrams_sent, datagrams_received, bytes_sent, bytes_received
    uint64_t messages_received, waiting
    uint32_t streams, up, channels, outgoing, datagram, mtu_holes


cdef inline BareTransport *T(Transport *t) noexcept nogil:
    return <BareTransport *>t

cdef inline BareAssociation *A(const Association *a) noexcept nogil:
    return <BareAssociation *>a


# ---- datagrams ---------------------------------------------------------------------------------------

cdef int ba_open(Transport *t, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef Carrier *c = T(t).carrier
    cdef int r = c.ops.open(c, port, bound), which, fd
    T(t).core.now = clock_ns()
    for which in range(C_DESCRIPTORS if r == 0 else 0):
        fd = c.ops.descriptor(c, which)
        if fd >= 0 and watch_file(t, fd, EPOLLIN, which) < 0:
            r = -errno
            c.ops.close(c)
            return r
    return r


cdef int ba_attach(Transport *t, uint32_t ifindex, uint32_t queue) noexcept nogil:
    cdef Carrier *c = T(t).carrier
    return c.ops.attach(c, ifindex, queue) if c.ops.attach != NULL else -EOPNOTSUPP


cdef void ba_detach(Transport *t, uint32_t ifindex) noexcept nogil:
    cdef Carrier *c = T(t).carrier
    if c.ops.detach != NULL:
        c.ops.detach(c, ifindex)


cdef void take_path_errors(BareTransport *t, int which, uint64_t now) noexcept nogil:
    cdef PathError e
    cdef int i, err
    for i in range(PATH_ERRORS):
        err = t.carrier.ops.error(t.carrier, which, &e)
        if err == 0:
            return
        if err == EMSGSIZE:
            bare_too_large(&t.core, &e.to, e.quoted, e.size, e.mtu, now)
        else:
            bare_refused(&t.core, &e.to, e.quoted, e.size, now)


cdef int take_datagrams(BareTransport *t, int which, uint64_t now) noexcept nogil:
    """A batch from the network; how many trains. Messages point into it until they are settled."""
    cdef Carrier *c = t.carrier
    cdef Datagram d
    cdef uint32_t offset
    cdef int i
    cdef int trains = c.ops.receive(c, which)
    for i in range(trains):
        offset = 0
        while c.ops.split(c, i, &offset, &d):
            bare_hear(&t.core, &d.source, d.data, d.size, now)
    t.base.sink.settle(t.base.sink.ctx)
    return trains


cdef void ba_ready(Transport *t, uint32_t own, uint32_t events, uint64_t now) noexcept nogil:
    if events & EPOLLERR:
        take_path_errors(T(t), own, now)
    take_datagrams(T(t), own, now)
    if T(t).carrier.properties & C_CONNECTIONS:
        take_path_errors(T(t), own, now)


cdef void ba_catch_up(Transport *t, uint64_t now) noexcept nogil:
    cdef int which, i
    cdef Carrier *c = T(t).carrier
    for which in range(C_DESCRIPTORS):
        for i in range(LATE_BATCHES):
            if c.ops.descriptor(c, which) < 0 or take_datagrams(T(t), which, now) <= 0:
                break


cdef inline bint is_full(const BareTransport *t) noexcept nogil:
    """The socket has not taken the whole batch."""
    return t.batch_at < t.batch.dgram_len


cdef bint send_next(BareTransport *t, uint64_t now) noexcept nogil:
    """Whether there may be more. What is in a batch is released when all of it is sent."""
    if not is_full(t):
        t.batch.iov_len = t.batch.dgram_len = t.batch.scratch_len = 0
        t.batch_at = 0
        bare_build(&t.core, &t.batch, now)
        if t.batch.dgram_len == 0:
            return False
    t.batch_at = t.carrier.ops.send(t.carrier, &t.batch, t.batch_at)
    if is_full(t):
        return False                            # it goes on in the next round
    shared_release(&t.core.shared)
    return True


cdef void ba_flush(Transport *base, uint64_t now) noexcept nogil:
    cdef BareTransport *t = T(base)
    cdef int i
    for i in range(BUILDS):
        if not send_next(t, now):
            break
    bare_buried(&t.core)
    if not is_full(t):
        shared_release(&t.core.shared)


cdef uint64_t ba_deadline(Transport *base) noexcept nogil:
    cdef BareTransport *t = T(base)
    if is_full(t):
        return clock_ns() + FULL_PAUSE
    if t.core.ready.first != NULL or t.core.dead.first != NULL or t.core.answers_n:
        return 0
    return timers_next(&t.core.timers)


cdef void ba_on_time(Transport *t, uint64_t now) noexcept nogil:
    bare_on_time(&T(t).core, now)


# ---- memory, and the end -----------------------------------------------------------------------------

cdef uint64_t ba_held_less(const Transport *t) noexcept nogil:
    cdef Bare *b = &T(<Transport *>t).core
    b.held_peak = max(b.held_peak, b.sources.held)
    return b.held_peak - b.sources.held


cdef void ba_held_noted(Transport *t) noexcept nogil:
    T(t).core.held_peak = T(t).core.sources.held


cdef void ba_note(Transport *base) noexcept nogil:
    cdef BareTransport *t = T(base)
    cdef BareNoted *n = &t.noted
    n.core = t.core.n
    n.core.associations, n.core.held = t.core.count, t.core.sources.held
    n.send_calls, n.recv_calls = t.carrier.send_calls, t.carrier.recv_calls
    n.send_errors, n.damaged, n.refused = t.carrier.send_errors, t.carrier.damaged, t.carrier.refused
    n.sent, n.received, n.trains = t.carrier.sent, t.carrier.received, t.carrier.trains


cdef void ba_close_files(Transport *t) noexcept nogil:
    T(t).carrier.ops.close(T(t).carrier)


cdef void ba_shut(Transport *base) noexcept nogil:
    cdef BareTransport *t = T(base)
    bare_free(&t.core)
    t.batch.dgram_len = t.batch_at = 0
    shared_end(&t.core.shared)
    t.carrier.ops.close(t.carrier)


cdef void ba_free(Transport *base) noexcept nogil:
    cdef BareTransport *t = T(base)
    ba_shut(base)
    timers_free(&t.core.timers)
    free(t.core.answers)
    free(t.batch.iov)
    free(t.batch.dgram)
    free(t.batch.scratch)
    t.carrier.ops.free(t.carrier)
    free(t)


# ---- associations ------------------------------------------------------------------------------------

cdef Association *ba_connect(Transport *t, const PeerAddress *to, uint64_t now) noexcept nogil:
    return <Association *>bare_connect(&T(t).core, to, now)


cdef bint ba_is_up(const Association *a) noexcept nogil:
    return A(a).state == BARE_UP


cdef const PeerAddress *ba_peer(const Association *a) noexcept nogil:
    return <const PeerAddress *>&A(a).to        # a vtl_addr begins like one


cdef uint64_t ba_patience(const Association *a) noexcept nogil:
    return 2 * A(a).srtt + 4 * A(a).rttvar


cdef int ba_say(Association *base, const Message *m) noexcept nogil:
    """HELLO is kept until the peer has it; all else goes once."""
    cdef BareAssociation *a = A(base)
    if a.state == BARE_DEAD:
        return -1
    if m.type == MSG_HELLO:
        a.hello_n = write_message(a.hello, m)
        a.greeted, a.reach_due = False, True
    elif out_say(&a.out, m) < 0:
        return -1
    bare_ready(a)
    return 0


cdef void ba_hold(Association *a) noexcept nogil:
    A(a).holds += 1
    bare_use_changed(A(a))


cdef void ba_let_go(Association *a) noexcept nogil:
    A(a).holds -= 1
    bare_use_changed(A(a))


cdef void ba_close(Association *a, uint64_t now) noexcept nogil:
    bare_of(A(a)).now = now
    bare_end(A(a), DOWN_CLOSED)


cdef void ba_stats(const Association *base, uint8_t *row) noexcept nogil:
    cdef BareAssociation *a = A(base)
    cdef BareStats *s = <BareStats *>row
    memset(s, 0, sizeof(BareStats))
    s.srtt_ns, s.rttvar_ns, s.min_rtt_ns = a.srtt, a.rttvar, a.min_rtt
    s.datagrams_sent, s.datagrams_received = a.datagrams_sent, a.datagrams_received
    s.bytes_sent, s.bytes_received, s.messages_received = a.bytes_sent, a.bytes_received, a.messages_received
    s.waiting, s.channels, s.outgoing = a.out.waiting, a.out.channels, a.outgoing
    s.up, s.datagram, s.mtu_holes = a.state == BARE_UP, a.size, a.holes


cdef void ba_take(Association *a, take_kind what, int64_t n) noexcept nogil:
    A(a).taken[<int>what] += <uint64_t>n
    A(a).source.taken[<int>what] += <uint64_t>n


cdef uint64_t ba_taken(const Association *a, take_kind what) noexcept nogil:
    return A(a).source.taken[<int>what]


cdef uint32_t ba_sources(const Association *a) noexcept nogil:
    return max(bare_of(A(a)).sources.n, <uint32_t>FAIR_SOURCES)


# ---- channels ----------------------------------------------------------------------------------------

cdef inline BareAssociation *owner_of(const Channel *c) noexcept nogil:
    """NULL: it is down."""
    cdef Outgoing *o = (<QueueChannel *>c).out
    cdef size_t before = <size_t>&(<BareAssociation *>NULL).out
    return <BareAssociation *>(<uint8_t *>o - before) if o != NULL else NULL


cdef Channel *ba_channel(Association *base, void *user) noexcept nogil:
    cdef BareAssociation *a = A(base)
    cdef Channel *c = channel_new(&a.out, user) if a.state != BARE_DEAD else NULL
    if c != NULL:
        bare_use_changed(a)
    return c


cdef void ba_channel_close(Channel *c) noexcept nogil:
    cdef BareAssociation *a = owner_of(c)
    channel_free(c)
    if a == NULL:
        return
    bare_use_changed(a)
    if out_wants(&a.out):
        bare_ready(a)


cdef int ba_send(Channel *c, const Message *m, void *owner) noexcept nogil:
    cdef BareAssociation *a = owner_of(c)
    if a == NULL or a.state == BARE_DEAD or channel_send(c, m, owner) < 0:
        return -1
    bare_ready(a)
    return 0


cdef void ba_report(Channel *c) noexcept nogil:
    cdef BareAssociation *a = owner_of(c)
    if a != NULL and a.state != BARE_DEAD:
        channel_report(c)
        bare_ready(a)


cdef TransportOps OPS
OPS.open = ba_open
OPS.ready = ba_ready
OPS.attach, OPS.detach = ba_attach, ba_detach
OPS.catch_up = ba_catch_up
OPS.deadline = ba_deadline
OPS.on_time = ba_on_time
OPS.flush = ba_flush
OPS.held_less = ba_held_less
OPS.held_noted = ba_held_noted
OPS.note = ba_note
OPS.close_files = ba_close_files
OPS.shut = ba_shut
OPS.free = ba_free
OPS.connect = ba_connect
OPS.is_up = ba_is_up
OPS.peer = ba_peer
OPS.patience = ba_patience
OPS.say = ba_say
OPS.hold = ba_hold
OPS.let_go = ba_let_go
OPS.close = ba_close
OPS.stats = ba_stats
OPS.take = ba_take
OPS.taken = ba_taken
OPS.sources = ba_sources
OPS.channel = ba_channel
OPS.channel_close = ba_channel_close
OPS.send = ba_send
OPS.report = ba_report
OPS.waiting = channel_waiting
OPS.all_waiting = channel_all_waiting
OPS.unacked = channel_waiting
OPS.newest = channel_newest
OPS.at_rest = channel_at_rest


# ---- made --------------------------------------------------------------------------------------------

cdef class BareHandle(Handle):
    """See contract.pyx."""

    cdef dict counted(self):
        cdef BareTransport *t = T(self.t)
        cdef BareNoted *n = &t.noted
        cdef dict out = {
            "send_calls": n.send_calls, "recv_calls": n.recv_calls, "send_errors": n.send_errors,
            "datagrams_sent": n.sent, "datagrams_received": n.received,
        }
        if t.carrier.properties & C_TRAINS:
            out["gso"] = int(n.trains)
        if not t.carrier.properties & C_CHECKED:
            out["datagrams_damaged"] = n.damaged
        if t.carrier.properties & C_CONNECTIONS:
            out["connections_refused"] = n.refused
        out.update(<dict>n.core)
        return {f"{self.name}.{name}": count for name, count in out.items()}

    cdef dict row(self, const uint8_t *row):
        return (<const BareStats *>row)[0]


cdef int allocate(BareTransport *t) except -1:
    t.core.answers = <Answer *>malloc(ANSWERS * sizeof(Answer))
    t.batch.iov = <iovec *>malloc(MOST_PARTS * sizeof(iovec))
    t.batch.dgram = <vtl_datagram *>malloc(DATAGRAMS * sizeof(vtl_datagram))
    t.batch.scratch = <uint8_t *>malloc(SCRATCH)
    t.batch.iov_cap, t.batch.dgram_cap, t.batch.scratch_cap = MOST_PARTS, DATAGRAMS, SCRATCH
    if (t.core.answers == NULL or t.batch.iov == NULL or t.batch.dgram == NULL or t.batch.scratch == NULL
            or timers_reserve(&t.core.timers, MAX_ASSOCS) < 0):
        raise MemoryError("engine buffers")
    return 0


def make(str name not None, uint8_t wire_id, CarrierHandle carrier not None, settings):
    """One over that carrier, which is used up. `name`: at most 32 letters of ASCII.

    Raises MemoryError; ConfigurationError when there is a key, for nothing of it is encrypted, and when what
    is lost has to be repaired (Settings.unrepaired).
    """
    cdef BareHandle handle = BareHandle.__new__(BareHandle)
    cdef bytes text = name.encode()
    cdef BareTransport *t
    cdef uint32_t overhead, first
    if carrier.used:
        raise ValueError("a carrier goes into one transport")
    if settings.keys:
        raise ConfigurationError(f"transport {name} does not encrypt, so a key does not go with it")
    if not settings.unrepaired:
        raise ConfigurationError(f"transport {name} repairs nothing, and no TCP repeats what is redirected")
    t = <BareTransport *>calloc(1, sizeof(BareTransport))
    if t == NULL:
        raise MemoryError(f"transport {name}")
    t.base.ops = &OPS
    t.carrier, carrier.used = carrier.c, True
    handle.t = &t.base                              # which frees it
    handle.name = name
    t.base.properties = T_INTEGRITY | T_WHOLE
    t.base.wire_id = wire_id
    t.options[0], t.options[1] = OPTION_TRANSPORT, <uint8_t>len(text)
    memcpy(t.options + 2, <const char *>text, min(len(text), 32))
    t.base.options, t.base.options_n = t.options, 2 + <uint32_t>len(text)
    overhead = t.carrier.overhead
    t.core.base, t.core.ports = &t.base, t.carrier.properties & C_PORTS != 0
    t.core.least = LEAST_MTU - overhead
    first = settings.datagrams[0] + LINK_HEADERS - overhead
    t.core.first = max(t.core.least, min(first, <uint32_t>LARGEST))
    t.core.dead_after = <uint64_t>(settings.dead_after * 1e9)
    t.core.shared.sink, t.core.shared.ops, t.core.shared.sources = &t.base.sink, &OPS, &t.core.sources
    sources_init(&t.core.sources, min(<uint64_t>BUDGET, <uint64_t>settings.budget))
    getrandom(&t.core.instance, sizeof(t.core.instance), 0)
    t.core.instance |= 1                            # never 0
    getrandom(t.core.secret, sizeof(t.core.secret), 0)
    getrandom(t.core.scatter, sizeof(t.core.scatter), 0)
    allocate(t)
    return handle
