"""VTL over a carrier as a transport: one VTL endpoint, the carrier of its datagrams, and their batches."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from hooker.carriers.contract cimport *
from hooker.flow.messages cimport MESSAGE_FINE, MSG_HELLO, Message
from hooker.includes.bpf cimport BPF_MAP_DELETE_ELEM, BPF_MAP_UPDATE_ELEM, hk_bpf_elem
from hooker.includes.bytes cimport store64
from hooker.includes.clock cimport clock_ns
from hooker.includes.linux cimport EMSGSIZE, EOPNOTSUPP, EPOLLERR, EPOLLIN, errno
from hooker.transports.contract cimport *
from hooker.transports.vtl cimport (
    message_of_block, message_of_control, say_message, send_message, write_report,
)
from hooker.vtl.api cimport *
from hooker.vtl.endpoint cimport *
from hooker.vtl.pages cimport pages, pages_free, pages_give, pages_take
from hooker.vtl.reliability.interface cimport ACCEPTABLE, reliability_of, reliability_ops

from importlib import import_module

from hooker.transports import check_congestion
from hooker.transports.functions import limits_of
from hooker.vtl.reliability import known as reliability_known

cdef enum:
    CHANNEL_QUEUE = 8 << 20    # bytes of one flow's that wait: more than a TCP's window, as a rule
    STREAM_WINDOW = 1 << 16    # bytes: nobody has streams
    MAX_ACK_DELAY = 1000000    # ns, as those below
    KEEPALIVE = 1000000000
    IDLE_AFTER = 120000000000
    HANDSHAKE_TIMEOUT = 3000000000
    DATAGRAMS = 512            # of one batch
    SCRATCH = 512 * 192        # bytes of headers and control frames in a batch
    BUILDS = 16                # batches in one round
    FULL_PAUSE = 100000        # ns until a full socket is tried again
    PATH_ERRORS = 16           # in one round
    LATE_BATCHES = 256         # of datagrams, after a silence

    HEADERS = 28               # bytes of IPv4 and UDP: Settings.datagrams are what is left of links by these
    OPTIONS = 64               # bytes
    OPTION_TRANSPORT = 1
    OPTION_CARRIER = 2
    CLOSE_CARRIER = 1          # why we close: the peer has another carrier by the same number

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)

cdef struct VtlCounts:
    vtl_counters core
    uint64_t forged, datagrams_dropped, send_calls, recv_calls, send_errors, sent, received, damaged, refused
    uint64_t left[C_WAYS]
    bint trains

# by carrier_way
LEFT = ("frame", "in_turn", "route", "interface", "neighbour", "ipsec", "size", "source", "full", "asked",
        "unproven")

cdef struct WayState:         # struct hk_way_state
    uint64_t clock_behind, unnamed

cdef struct VtlTransport:
    Transport base
    vtl_endpoint *vtl          # NULL: shut
    Carrier *carrier
    uint8_t options[OPTIONS]
    vtl_batch batch
    uint32_t batch_at          # datagrams of the batch already sent
    VtlAssociation *all
    pages channels
    uint64_t datagrams_dropped
    VtlCounts noted            # note()
    uint32_t versions[VTL_MAX_VERSIONS]    # spoken
    uint32_t versions_n
    int known_fd, states_fd    # maps of hk_ingress; -1: there is none
    uint32_t way               # its place in the latter
    WayState state, told       # what is so, and what the program knows of it

cdef struct VtlAssociation:
    Association base
    vtl_assoc *a
    VtlAssociation *next
    VtlAssociation *prev

cdef struct VtlChannel:
    Channel base
    vtl_channel *c


cdef inline VtlTransport *T(Transport *t) noexcept nogil:
    return <VtlTransport *>t

cdef inline vtl_assoc *A(const Association *a) noexcept nogil:
    return (<const VtlAssociation *>a).a

cdef inline vtl_channel *C(const Channel *c) noexcept nogil:
    return (<const VtlChannel *>c).c


# ---- what VTL says -----------------------------------------------------------------------------------

cdef VtlAssociation *known(VtlTransport *t, vtl_assoc *a) noexcept nogil:
    """The engine's handle of it, made if need be; NULL: no memory."""
    cdef VtlAssociation *k = <VtlAssociation *>vtl_user(a)
    if k != NULL:
        return k
    k = <VtlAssociation *>calloc(1, sizeof(VtlAssociation))
    if k == NULL:
        return NULL
    k.base.ops, k.base.t, k.a, k.next = t.base.ops, &t.base, a, t.all
    if t.all != NULL:
        t.all.prev = k
    t.all = k
    vtl_set_user(a, k)
    return k


cdef void forget(VtlTransport *t, VtlAssociation *k) noexcept nogil:
    if k.prev != NULL:
        k.prev.next = k.next
    else:
        t.all = k.next
    if k.next != NULL:
        k.next.prev = k.prev
    free(k)


cdef void cb_random(void *ctx, uint8_t *out, size_t n) noexcept nogil:
    getrandom(out, n, 0)


cdef void cb_assoc_up(void *ctx, vtl_assoc *a) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    cdef VtlAssociation *k = known(t, a)
    if k != NULL:
        k.base.lacks = 0 if vtl_repairs(a) else T_REPAIRS | T_CONGESTION
        if not vtl_is_whole(a):
            k.base.lacks |= T_WHOLE
        t.base.sink.assoc_up(t.base.sink.ctx, &k.base)


cdef down_reason why_down(uint32_t reason) noexcept nogil:
    if reason == VTL_DOWN_KEY:
        return DOWN_KEY
    if reason == CLOSE_CARRIER:
        return DOWN_NAME
    if reason == VTL_DOWN_VERSION:
        return DOWN_VERSION
    if reason == VTL_DOWN_TIMEOUT:
        return DOWN_SILENT
    if reason == VTL_DOWN_STATELESS_RESET:
        return DOWN_REPLACED
    if reason == VTL_DOWN_UNREACHABLE or reason == VTL_DOWN_HANDSHAKE_TIMEOUT:
        return DOWN_UNREACHABLE
    return DOWN_CLOSED


cdef void cb_assoc_down(void *ctx, vtl_assoc *a, uint32_t reason) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    cdef VtlAssociation *k = <VtlAssociation *>vtl_user(a)
    if k == NULL:
        return
    vtl_set_user(a, NULL)
    t.base.sink.assoc_down(t.base.sink.ctx, &k.base, why_down(reason))
    forget(t, k)


cdef void cb_block(void *ctx, vtl_assoc *a, const vtl_block *b, bint stable) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    cdef VtlAssociation *k = known(t, a)
    cdef Message m
    if k == NULL:
        return
    message_of_block(b, &m)
    t.base.sink.message(t.base.sink.ctx, &k.base, &m, stable)


cdef void cb_hole(void *ctx, vtl_assoc *a, const vtl_block *b) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    cdef VtlAssociation *k = known(t, a)
    cdef Message m
    if k == NULL:
        return
    message_of_block(b, &m)
    t.base.sink.hole(t.base.sink.ctx, &k.base, &m)


cdef const uint8_t *option_of(const uint8_t *p, size_t n, uint8_t kind) noexcept nogil:
    """HELLO's option of that kind, at its length; NULL: there is none."""
    while n >= 2 and n - 2 >= p[1]:
        if p[0] == kind:
            return p + 1
        n -= 2 + p[1]
        p += 2 + p[1]
    return NULL


cdef bint has_other_carrier(const VtlTransport *t, const Message *m) noexcept nogil:
    """HELLO says so. Carriers without a number of their own are told apart by their names."""
    cdef const uint8_t *theirs = option_of(m.data, m.data_n, OPTION_CARRIER)
    cdef const uint8_t *ours = option_of(t.base.options, t.base.options_n, OPTION_CARRIER)
    return theirs != NULL and (theirs[0] != ours[0] or memcmp(theirs, ours, 1 + ours[0]) != 0)


cdef void cb_message(void *ctx, vtl_assoc *a, const uint8_t *p, size_t n) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    cdef VtlAssociation *k = known(t, a)
    cdef Message m
    if k == NULL or message_of_control(p, n, &m) != MESSAGE_FINE:
        t.base.bad_messages += 1
        return
    if m.type == MSG_HELLO and has_other_carrier(t, &m):
        vtl_close(a, CLOSE_CARRIER, 0)
        return
    t.base.sink.message(t.base.sink.ctx, &k.base, &m, False)


cdef uint32_t cb_report(void *ctx, void *user, uint8_t *out) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    cdef Message m
    return write_report(&m, out) if t.base.sink.report(t.base.sink.ctx, user, &m) else 0


cdef void cb_channel_down(void *ctx, void *user, uint32_t reason) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    t.base.sink.channel_down(t.base.sink.ctx, user)


cdef void cb_release(void *ctx, void *owner, size_t n) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    t.base.sink.release(t.base.sink.ctx, owner, n)


cdef void cb_opened(void *ctx, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    vtl_reject(s, 1)           # flows have channels


cdef void cb_stream(void *ctx, vtl_stream *s) noexcept nogil:
    pass


cdef void cb_stream_code(void *ctx, vtl_stream *s, uint32_t code) noexcept nogil:
    pass


cdef void cb_stream_data(void *ctx, vtl_stream *s, const uint8_t *data, size_t n, bint stable) noexcept nogil:
    pass


cdef void cb_stream_acked(void *ctx, vtl_stream *s, size_t n) noexcept nogil:
    pass


cdef void tell_state(VtlTransport *t) noexcept nogil:
    t.state.clock_behind = vtl_behind(t.vtl)
    if t.states_fd >= 0 and memcmp(&t.state, &t.told, sizeof(WayState)) != 0:
        hk_bpf_elem(BPF_MAP_UPDATE_ELEM, t.states_fd, &t.way, &t.state, 0)
        t.told = t.state


cdef void cb_named(void *ctx, uint64_t cid, bint known) noexcept nogil:
    cdef VtlTransport *t = <VtlTransport *>ctx
    cdef uint8_t key[8]
    cdef uint8_t one = 1
    if t.known_fd < 0:
        return
    store64(key, cid)
    if known:
        t.state.unnamed += hk_bpf_elem(BPF_MAP_UPDATE_ELEM, t.known_fd, key, &one, 0) < 0
    elif hk_bpf_elem(BPF_MAP_DELETE_ELEM, t.known_fd, key, NULL, 0) < 0 and t.state.unnamed > 0:
        t.state.unnamed -= 1                    # it is one of those for which there was no room
    tell_state(t)


cdef void fill_sink(vtl_sink *s, VtlTransport *t) noexcept nogil:
    s.ctx = t
    s.random = cb_random
    s.assoc_up = cb_assoc_up
    s.assoc_down = cb_assoc_down
    s.opened = cb_opened
    s.accepted = s.confirmed = s.cancelled = s.fin = s.closed = cb_stream
    s.rejected = s.reset = cb_stream_code
    s.data = cb_stream_data
    s.acked = cb_stream_acked
    s.release = cb_release
    s.block = cb_block
    s.hole = cb_hole
    s.message = cb_message
    s.report = cb_report
    s.channel_down = cb_channel_down
    s.named = cb_named


# ---- datagrams ---------------------------------------------------------------------------------------

cdef int vu_open(Transport *t, uint16_t port, uint16_t *bound) noexcept nogil:
    cdef Carrier *c = T(t).carrier
    cdef int r = c.ops.open(c, port, bound), which, fd
    for which in range(C_DESCRIPTORS if r == 0 else 0):
        fd = c.ops.descriptor(c, which)
        if fd >= 0 and watch_file(t, fd, EPOLLIN, which) < 0:
            r = -errno
            c.ops.close(c)
            return r
    return r


cdef int vu_attach(Transport *t, uint32_t ifindex, uint32_t queue) noexcept nogil:
    cdef Carrier *c = T(t).carrier
    return c.ops.attach(c, ifindex, queue) if c.ops.attach != NULL else -EOPNOTSUPP


cdef void vu_detach(Transport *t, uint32_t ifindex) noexcept nogil:
    cdef Carrier *c = T(t).carrier
    if c.ops.detach != NULL:
        c.ops.detach(c, ifindex)


cdef void take_path_errors(VtlTransport *t, int which, uint64_t now) noexcept nogil:
    cdef PathError e
    cdef int i, err
    for i in range(PATH_ERRORS):
        err = t.carrier.ops.error(t.carrier, which, &e)
        if err == 0:
            return
        if err != EMSGSIZE:
            vtl_path_error(t.vtl, &e.to, e.quoted, e.size, now)


cdef int take_datagrams(VtlTransport *t, int which, uint64_t now) noexcept nogil:
    """A batch from the network; how many trains. Messages point into it until they are settled."""
    cdef Carrier *c = t.carrier
    cdef Datagram d
    cdef uint32_t offset
    cdef int i
    cdef int trains = c.ops.receive(c, which)
    for i in range(trains):
        offset = 0
        while c.ops.split(c, i, &offset, &d):
            if vtl_recv(t.vtl, d.data, d.size, &d.source, d.ecn, now):
                t.datagrams_dropped += 1
    t.base.sink.settle(t.base.sink.ctx)
    return trains


cdef void vu_ready(Transport *t, uint32_t own, uint32_t events, uint64_t now) noexcept nogil:
    if events & EPOLLERR:
        take_path_errors(T(t), own, now)
    take_datagrams(T(t), own, now)
    if T(t).carrier.properties & C_CONNECTIONS:
        take_path_errors(T(t), own, now)


cdef void vu_catch_up(Transport *t, uint64_t now) noexcept nogil:
    cdef int which, i
    cdef Carrier *c = T(t).carrier
    for which in range(C_DESCRIPTORS):
        for i in range(LATE_BATCHES):
            if c.ops.descriptor(c, which) < 0 or take_datagrams(T(t), which, now) <= 0:
                break


cdef inline bint is_full(const VtlTransport *t) noexcept nogil:
    """The socket has not taken the whole batch."""
    return t.batch_at < t.batch.dgram_len


cdef void vu_flush(Transport *base, uint64_t now) noexcept nogil:
    cdef VtlTransport *t = T(base)
    cdef int i
    if t.states_fd >= 0 and vtl_behind(t.vtl) != t.told.clock_behind:
        tell_state(t)
    for i in range(BUILDS):
        if not is_full(t):
            t.batch.iov_len = t.batch.dgram_len = t.batch.scratch_len = t.batch.sealed_len = 0
            t.batch_at = 0
            if vtl_build(t.vtl, &t.batch, now) <= 0:
                return
        t.batch_at = t.carrier.ops.send(t.carrier, &t.batch, t.batch_at)
        if is_full(t):
            return                              # it goes on in the next round


cdef uint64_t vu_deadline(Transport *t) noexcept nogil:
    cdef uint64_t at = vtl_timer(T(t).vtl)
    if is_full(T(t)):
        return min(at, clock_ns() + FULL_PAUSE)
    return 0 if vtl_has_more(T(t).vtl) else at


cdef void vu_on_time(Transport *t, uint64_t now) noexcept nogil:
    if vtl_timer(T(t).vtl) <= now:
        vtl_on_timer(T(t).vtl, now)


# ---- memory, and the end -----------------------------------------------------------------------------

cdef uint64_t vu_held_less(const Transport *t) noexcept nogil:
    return vtl_held_less((<const VtlTransport *>t).vtl)


cdef void vu_held_noted(Transport *t) noexcept nogil:
    vtl_held_noted(T(t).vtl)


cdef void vu_note(Transport *base) noexcept nogil:
    cdef VtlTransport *t = T(base)
    cdef VtlCounts *n = &t.noted
    memset(n, 0, sizeof(VtlCounts))
    if t.vtl != NULL:
        vtl_get_counters(t.vtl, &n.core)
        n.forged = vtl_drops(t.vtl, VTL_DROP_AUTH)
    n.datagrams_dropped = t.datagrams_dropped
    n.send_calls, n.recv_calls = t.carrier.send_calls, t.carrier.recv_calls
    n.send_errors, n.damaged, n.refused = t.carrier.send_errors, t.carrier.damaged, t.carrier.refused
    n.sent, n.received, n.trains = t.carrier.sent, t.carrier.received, t.carrier.trains
    memcpy(n.left, t.carrier.left, sizeof(n.left))


cdef void vu_close_files(Transport *t) noexcept nogil:
    T(t).carrier.ops.close(T(t).carrier)


cdef void vu_shut(Transport *base) noexcept nogil:
    """What is freed may call Python: a controller ends with its association."""
    cdef VtlTransport *t = T(base)
    cdef vtl_endpoint *vtl = t.vtl
    t.vtl = NULL
    t.known_fd = t.states_fd = -1               # whose owner may have closed them
    if vtl != NULL:
        vtl_endpoint_free(vtl)
    while t.all != NULL:
        forget(t, t.all)
    pages_free(&t.channels)
    t.carrier.ops.close(t.carrier)


cdef void vu_free(Transport *base) noexcept nogil:
    cdef VtlTransport *t = T(base)
    vu_shut(base)
    free(t.batch.iov)
    free(t.batch.dgram)
    free(t.batch.scratch)
    free(t.batch.sealed)
    t.carrier.ops.free(t.carrier)
    free(t)


# ---- associations ------------------------------------------------------------------------------------

cdef inline vtl_addr address_of(const VtlTransport *t, const PeerAddress *peer) noexcept nogil:
    cdef vtl_addr address
    memset(&address, 0, sizeof(address))
    memcpy(address.ip, peer.ip, 16)
    if t.carrier.properties & C_PORTS:
        address.port = peer.port
    return address


cdef Association *vu_connect(Transport *t, const PeerAddress *to, uint64_t now) noexcept nogil:
    cdef vtl_addr address = address_of(T(t), to)
    cdef vtl_assoc *a = vtl_connect(T(t).vtl, &address, now)
    return <Association *>known(T(t), a) if a != NULL else NULL


cdef Association *vu_connect_as(Transport *t, const PeerAddress *to, uint8_t function,
                                uint64_t now) noexcept nogil:
    cdef vtl_addr address = address_of(T(t), to)
    cdef const reliability_ops *f = reliability_of(function)
    cdef vtl_assoc *a = vtl_connect_as(T(t).vtl, &address, f.name, now) if f != NULL else NULL
    return <Association *>known(T(t), a) if a != NULL else NULL


cdef bint vu_is_up(const Association *a) noexcept nogil:
    return vtl_is_up(A(a))


cdef const PeerAddress *vu_peer(const Association *a) noexcept nogil:
    return <const PeerAddress *>vtl_peer(A(a))      # a vtl_addr begins like one


cdef uint64_t vu_patience(const Association *a) noexcept nogil:
    return vtl_patience(A(a))


cdef int vu_say(Association *a, const Message *m) noexcept nogil:
    return say_message(A(a), m)


cdef void vu_hold(Association *a) noexcept nogil:
    vtl_hold(A(a))


cdef void vu_let_go(Association *a) noexcept nogil:
    vtl_let_go(A(a))


cdef void vu_close(Association *a, uint64_t now) noexcept nogil:
    vtl_close(A(a), VTL_DOWN_CLOSED, now)


cdef void vu_stats(const Association *a, uint8_t *row) noexcept nogil:
    vtl_assoc_get_stats(A(a), <vtl_assoc_stats *>row)


cdef void vu_take(Association *a, take_kind what, int64_t n) noexcept nogil:
    vtl_take(A(a), <vtl_take_kind>what, n)


cdef uint64_t vu_taken(const Association *a, take_kind what) noexcept nogil:
    return vtl_taken(A(a), <vtl_take_kind>what)


cdef uint32_t vu_sources(const Association *a) noexcept nogil:
    return vtl_sources(A(a))


# ---- channels ----------------------------------------------------------------------------------------

cdef Channel *vu_channel(Association *a, void *user) noexcept nogil:
    cdef VtlChannel *c = <VtlChannel *>pages_take(&T(a.t).channels)
    if c == NULL:
        return NULL
    c.base.ops = a.ops
    c.c = vtl_channel_open(A(a), user)
    if c.c == NULL:
        pages_give(c)
        return NULL
    return &c.base


cdef void vu_channel_close(Channel *c) noexcept nogil:
    vtl_channel_close(C(c))
    pages_give(c)


cdef int vu_send(Channel *c, const Message *m, void *owner) noexcept nogil:
    return send_message(C(c), m, owner)


cdef void vu_report(Channel *c) noexcept nogil:
    vtl_channel_report(C(c))


cdef uint64_t vu_waiting(const Channel *c) noexcept nogil:
    return vtl_channel_waiting(C(c))


cdef uint64_t vu_all_waiting(const Channel *c) noexcept nogil:
    return vtl_channels_waiting(C(c))


cdef uint64_t vu_enough(const Channel *c) noexcept nogil:
    return vtl_channels_enough(C(c))


cdef uint64_t vu_unacked(const Channel *c) noexcept nogil:
    return vtl_channel_unacked(C(c))


cdef bint vu_arrived(const Channel *c) noexcept nogil:
    return vtl_channel_unacked(C(c)) == 0


cdef bint vu_newest(const Channel *c, Message *out) noexcept nogil:
    cdef vtl_block b
    if not vtl_channel_newest(C(c), &b):
        return False
    message_of_block(&b, out)
    return True


cdef bint vu_at_rest(const Channel *c) noexcept nogil:
    return vtl_channel_at_rest(C(c))


cdef TransportOps OPS
OPS.open = vu_open
OPS.ready = vu_ready
OPS.attach, OPS.detach = vu_attach, vu_detach
OPS.catch_up = vu_catch_up
OPS.deadline = vu_deadline
OPS.on_time = vu_on_time
OPS.flush = vu_flush
OPS.held_less = vu_held_less
OPS.held_noted = vu_held_noted
OPS.note = vu_note
OPS.close_files = vu_close_files
OPS.shut = vu_shut
OPS.free = vu_free
OPS.connect = vu_connect
OPS.connect_as = vu_connect_as
OPS.is_up = vu_is_up
OPS.peer = vu_peer
OPS.patience = vu_patience
OPS.say = vu_say
OPS.hold = vu_hold
OPS.let_go = vu_let_go
OPS.close = vu_close
OPS.stats = vu_stats
OPS.take = vu_take
OPS.taken = vu_taken
OPS.sources = vu_sources
OPS.channel = vu_channel
OPS.channel_close = vu_channel_close
OPS.send = vu_send
OPS.report = vu_report
OPS.waiting = vu_waiting
OPS.all_waiting = vu_all_waiting
OPS.enough = vu_enough
OPS.unacked = vu_unacked
OPS.arrived = vu_arrived
OPS.newest = vu_newest
OPS.at_rest = vu_at_rest


# ---- made --------------------------------------------------------------------------------------------

cdef class VtlOver(Handle):
    """See contract.pyx."""

    cdef dict counted(self):
        cdef VtlTransport *t = T(self.t)
        cdef VtlCounts *n = &t.noted
        cdef str carrier = (<bytes>t.options[7:7 + t.options[6]]).decode()
        cdef str own = "" if self.name == "vtl" else f"{self.name}."    # an engine may have several
        cdef dict out = {
            f"{own}{carrier}_send_calls": n.send_calls, f"{own}{carrier}_recv_calls": n.recv_calls,
            f"{own}{carrier}_send_errors": n.send_errors,
            f"{own}datagrams_sent": n.sent, f"{own}datagrams_received": n.received,
            f"{own}datagrams_dropped": n.datagrams_dropped, f"{self.name}.forged": n.forged,
        }
        if t.carrier.properties & C_TRAINS:
            out[f"{own}gso"] = int(n.trains)
        if not t.carrier.properties & C_CHECKED:
            out[f"{own}datagrams_damaged"] = n.damaged
        if t.carrier.properties & C_CONNECTIONS:
            out[f"{own}connections_refused"] = n.refused
        if t.carrier.properties & C_FRAMES:
            out.update({f"{self.name}.left_{name}": n.left[<int>way] for way, name in enumerate(LEFT)})
        out.update({f"{self.name}.{name}": count for name, count in (<dict>n.core).items()})
        return out

    cdef dict ingress(self, int known_fd, int states_fd):
        cdef VtlTransport *t = T(self.t)
        cdef str carrier = (<bytes>t.options[7:7 + t.options[6]]).decode()
        cdef tuple ways = ("udp", "ip")         # HK_INGRESS_UDP, HK_INGRESS_IP
        if carrier not in ways:
            return None
        t.way = ways.index(carrier)
        t.known_fd, t.states_fd = known_fd, states_fd
        return {
            "carrier": carrier, "wire_id": t.base.wire_id,
            "secret": <bytes>(<const char *>vtl_secret(t.vtl))[:16],
            "versions": tuple([t.versions[i] for i in range(t.versions_n)]),
            "keyed": t.base.properties & T_PATH_BOUND != 0,
        }

    cdef dict row(self, const uint8_t *row):
        cdef const vtl_assoc_stats *stats = <const vtl_assoc_stats *>row
        cdef dict out = stats[0]
        out["reliability"] = reliability_of(<uint8_t>stats.reliability).name.decode()
        return out


cdef int allocate(VtlTransport *t, size_t sealed) except -1:
    t.channels.size = (sizeof(VtlChannel) + 7) & ~<size_t>7
    t.batch.iov = <iovec *>malloc(MOST_PARTS * sizeof(iovec))
    t.batch.iov_cap = MOST_PARTS
    t.batch.dgram = <vtl_datagram *>malloc(DATAGRAMS * sizeof(vtl_datagram))
    t.batch.dgram_cap = DATAGRAMS
    t.batch.scratch = <uint8_t *>malloc(SCRATCH)
    t.batch.scratch_cap = SCRATCH
    t.batch.sealed = <uint8_t *>malloc(sealed) if sealed else NULL
    t.batch.sealed_cap = <uint32_t>sealed
    if (t.batch.iov == NULL or t.batch.dgram == NULL or t.batch.scratch == NULL
            or (sealed and t.batch.sealed == NULL)):
        raise MemoryError("engine buffers")
    return 0


cdef bytes controller_of(const Carrier *carrier, settings):
    """Users' choice is checked in any case; one of the kernel's is not doubled by ours."""
    cdef str name = check_congestion(settings.congestion)               # perhaps unregistered meanwhile
    if not carrier.properties & C_CONGESTION:
        return name.encode()
    import_module("hooker.vtl.controllers.carried")                     # which registers itself
    return b"carried"


cdef int configure(vtl_config *c, const Carrier *carrier, settings) except -1:
    cdef bytes name = controller_of(carrier, settings)
    cdef uint32_t overhead = carrier.overhead
    cdef bytes key
    memset(c, 0, sizeof(vtl_config))
    c.versions[0] = c.n_versions = 1
    c.first_datagram, c.max_datagram = [size + HEADERS - overhead for size in settings.datagrams]
    c.overhead = overhead
    for key in settings.keys:
        memcpy(c.key[c.keys], <const char *>key, VTL_KEY_SIZE)
        c.keys += 1
    if c.keys:
        c.n_versions = vtl_encrypted_versions(c.versions)
    c.stream_window = c.assoc_window = STREAM_WINDOW
    c.channel_queue = CHANNEL_QUEUE
    c.budget = settings.budget
    c.max_ack_delay = MAX_ACK_DELAY
    c.keepalive = KEEPALIVE
    c.dead_after = <uint64_t>(settings.dead_after * 1e9)
    c.idle_after = IDLE_AFTER
    c.handshake_timeout = HANDSHAKE_TIMEOUT
    c.fec = settings.fec
    memcpy(c.congestion, <const char *>name, min(len(name), 15))
    use_functions(c, settings.functions, settings.unrepaired)
    return 0


cdef int use_functions(vtl_config *c, functions, bint unrepaired) except -1:
    """Peers may begin what loses no byte; what does only where this host has chosen it, too."""
    cdef bytes name = functions[0].name.encode()
    limits = limits_of(functions)
    chosen = {function.name for function in functions}
    memcpy(c.reliability, <const char *>name, min(len(name), 23))
    c.window, c.repeats, c.deadline = limits.window, limits.repeats, <uint64_t>(limits.deadline * 1e9)
    for which, known in reliability_known().items():
        if known.code < ACCEPTABLE and (known.complete or which in chosen) and (known.repairs or unrepaired):
            c.accepts |= <uint32_t>1 << <uint32_t>known.code
    return 0


cdef int say_names(VtlTransport *t, bytes carrier) except -1:
    """HELLO's options: what it is, and over what."""
    cdef bytes options = bytes([OPTION_TRANSPORT, 3]) + b"vtl"
    options += bytes([OPTION_CARRIER, len(carrier)]) + carrier
    if len(options) > OPTIONS:
        raise ValueError(f"a carrier's name of {len(carrier)} bytes")
    memcpy(t.options, <const char *>options, len(options))
    t.base.options, t.base.options_n = t.options, <uint32_t>len(options)
    return 0


def make(str name not None, uint8_t wire_id, CarrierHandle carrier not None, settings):
    """VTL over that carrier, which is used up.

    Raises MemoryError, ConfigurationError for an unknown congestion controller.
    """
    cdef VtlOver handle = VtlOver.__new__(VtlOver)
    cdef VtlTransport *t
    cdef vtl_config c
    cdef vtl_sink sink
    if carrier.used:
        raise ValueError("a carrier goes into one transport")
    t = <VtlTransport *>calloc(1, sizeof(VtlTransport))
    if t == NULL:
        raise MemoryError("VTL endpoint")
    t.base.ops = &OPS
    t.known_fd = t.states_fd = -1
    t.carrier, carrier.used = carrier.c, True
    handle.t = &t.base                              # which frees it
    handle.name = name
    t.base.properties = T_REPAIRS | T_INTEGRITY | T_CONGESTION | T_WHOLE
    if settings.keys:
        t.base.properties |= T_PATH_BOUND
    t.base.wire_id = wire_id
    say_names(t, carrier.name.encode())
    configure(&c, t.carrier, settings)
    allocate(t, DATAGRAMS * <size_t>c.max_datagram if c.keys else 0)
    memset(&sink, 0, sizeof(sink))
    fill_sink(&sink, t)
    memcpy(t.versions, c.versions, sizeof(t.versions))
    t.versions_n = c.n_versions
    t.vtl = vtl_endpoint_new(&c, &sink)
    if t.vtl == NULL:
        raise MemoryError("VTL endpoint")
    return handle
