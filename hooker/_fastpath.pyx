"""The worker: one loop over epoll, without the GIL, that carries all flows of an engine.

A round: wait; take what the kernel programs, the redirect socket, the twins and the network have; let time
act; hand bytes to the applications; build and send datagrams. Nothing in it allocates per message.
"""

import os

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from cpython.ref cimport PyObject
from hooker.carriers.udp cimport udp_close, udp_datagram, udp_error, udp_icmp, udp_open, udp_receive, udp_send, udp_split
from hooker.engine.collection cimport collect_redirected, collect_twin, collection_acked, collection_feed, collection_retry
from hooker.engine.delivery cimport deliver, deliver_fin, delivery_flush, delivery_free, delivery_writable
from hooker.engine.early cimport early_free
from hooker.engine.ending cimport flow_app_reset
from hooker.engine.flows cimport *
from hooker.engine.flowtable cimport flows_free, flows_init, flows_reap
from hooker.engine.frames cimport frame_entry, frames_init
from hooker.includes.hk cimport *
from hooker.includes.linux cimport *
from hooker.engine.polling cimport clock_ns, poll_init, wait_events
from hooker.engine.lock cimport lock_give, lock_init, lock_take
from hooker.engine.nudge cimport nudger_close, nudger_open
from hooker.engine.ringbuf cimport ring_attach, ring_detach, ring_next, ring_release
from hooker.engine.slab cimport RESERVE, pool_free, pool_init, pool_release, pool_trim, slab
from hooker.vtl.api cimport *
from hooker.engine.view cimport view_counters, view_ended, view_flows, view_notices, view_peers, view_reasons
from hooker.vtl.endpoint cimport *
from hooker.engine.worker cimport *

from hooker.errors import KernelError, UsageError
from hooker.transports import check_congestion

cdef enum:
    EVENTS = 256                 # of one epoll_wait
    EVENTS_A_ROUND = 4096        # of the kernel programs
    SLAB = 1 << 19               # bytes
    SLABS = 256
    BUDGET = 192 << 20           # bytes that peers may make the engine hold
    DATAGRAMS = 512              # of one batch
    IOVECS = 4096
    SCRATCH = 512 * 192          # bytes of headers and control frames in a batch
    BUILDS = 16                  # batches in one round
    SWEEP = 1000000000           # ns
    LET_GO = 10000000            # ns between looks for slabs that only a tap's views hold
    SETTLE = 500                 # ms that resets may take over loopback, at the end
    TRIM = 8 << 20               # bytes less than at the peak that are worth a malloc_trim()
    TAG_TWIN = 0                 # epoll tags: a slot, or one of these in the upper half
    TAG_WAKE = 1
    TAG_RING = 2                 # only wakes: the ring is looked at in each round
    TAG_REDIRECT = 3
    TAG_UDP4 = 4
    TAG_UDP6 = 5



cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int us)

cdef extern from * nogil:
    """
    #include <malloc.h>
    #ifndef __GLIBC__
    static int malloc_trim(size_t pad) { return 0; }    /* musl gives back by itself */
    #endif
    """
    int malloc_trim(size_t pad)


cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *buf, size_t n, unsigned int flags)


# ---- what VTL asks of us -----------------------------------------------------------------------------

cdef void cb_random(void *ctx, uint8_t *out, size_t n) noexcept nogil:
    getrandom(out, n, 0)


cdef void tell_peer(worker *w, vtl_assoc *a, uint8_t kind) noexcept nogil:
    cdef notice *n
    if w.notice_head - hk_load64(&w.notice_tail) >= NOTICES:
        w.n.notices_lost += 1
        return
    n = &w.notices[w.notice_head & (NOTICES - 1)]
    memset(n, 0, sizeof(notice))
    n.kind = kind
    memcpy(n.key.remote_ip, vtl_peer(a).ip, 16)
    n.key.remote_port = vtl_peer(a).port
    n.at_ns = w.now
    hk_store64(&w.notice_head, w.notice_head + 1)


cdef void cb_assoc_up(void *ctx, vtl_assoc *a) noexcept nogil:
    cdef worker *w = <worker *>ctx
    if w.peer_count < PEERS:
        w.peers[w.peer_count] = a
        w.peer_count += 1
    tell_peer(w, a, N_PEER_UP)


cdef void cb_assoc_down(void *ctx, vtl_assoc *a, uint32_t why) noexcept nogil:
    cdef worker *w = <worker *>ctx
    cdef uint32_t i
    for i in range(w.peer_count):
        if w.peers[i] == a:
            w.peer_count -= 1
            w.peers[i] = w.peers[w.peer_count]
            break
    tell_peer(w, a, N_PEER_DOWN)


cdef void cb_opened(void *ctx, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    on_opened(<worker *>ctx, s, info)


cdef void cb_accepted(void *ctx, vtl_stream *s) noexcept nogil:
    on_accepted(<worker *>ctx, s)


cdef void cb_rejected(void *ctx, vtl_stream *s, uint32_t code) noexcept nogil:
    on_rejected(<worker *>ctx, s)


cdef void cb_confirmed(void *ctx, vtl_stream *s) noexcept nogil:
    on_confirmed(<worker *>ctx, s)


cdef void cb_cancelled(void *ctx, vtl_stream *s) noexcept nogil:
    on_cancelled(<worker *>ctx, s)


cdef void cb_data(void *ctx, vtl_stream *s, const uint8_t *data, size_t n, bint stable) noexcept nogil:
    cdef flow *f = <flow *>vtl_stream_user(s)
    if f == NULL:
        vtl_consumed(s, n)
        return
    deliver(<worker *>ctx, f, data, n, stable)


cdef void cb_fin(void *ctx, vtl_stream *s) noexcept nogil:
    cdef flow *f = <flow *>vtl_stream_user(s)
    if f != NULL:
        deliver_fin(<worker *>ctx, f)


cdef void cb_reset(void *ctx, vtl_stream *s, uint32_t code) noexcept nogil:
    on_stream_reset(<worker *>ctx, s, code)


cdef void cb_acked(void *ctx, vtl_stream *s, size_t n) noexcept nogil:
    cdef flow *f = <flow *>vtl_stream_user(s)
    if f != NULL and f.state == HK_STATE_ENGAGED:
        collection_acked(<worker *>ctx, f)


cdef void cb_release(void *ctx, void *owner, size_t n) noexcept nogil:
    pool_release(&(<worker *>ctx).slabs, <slab *>owner, n)


cdef void cb_closed(void *ctx, vtl_stream *s) noexcept nogil:
    on_stream_closed(<worker *>ctx, s)


cdef void fill_sink(vtl_sink *s, worker *w) noexcept nogil:
    s.ctx = w
    s.random = cb_random
    s.assoc_up = cb_assoc_up
    s.assoc_down = cb_assoc_down
    s.opened = cb_opened
    s.accepted = cb_accepted
    s.rejected = cb_rejected
    s.confirmed = cb_confirmed
    s.cancelled = cb_cancelled
    s.data = cb_data
    s.fin = cb_fin
    s.reset = cb_reset
    s.acked = cb_acked
    s.release = cb_release
    s.closed = cb_closed


# ---- one round ---------------------------------------------------------------------------------------

cdef void take_kernel_events(worker *w) noexcept nogil:
    """At most so many in a round: what they lead to may put more there at once."""
    cdef const hk_event *e = <const hk_event *>ring_next(&w.ring)
    cdef uint32_t left = EVENTS_A_ROUND
    while e != NULL and left > 0:
        left -= 1
        if e.type == HK_EVENT_ESTABLISHED:
            on_established(w, e)
        elif e.type == HK_EVENT_CLOSED:
            on_app_closed(w, e)
        elif e.type == HK_EVENT_SYN:
            on_syn(w, e)
        elif e.type == HK_EVENT_WIRE_RELEASED:
            on_wire_released(w, e)
        elif e.type == HK_EVENT_STRAY:
            on_stray(w, e)
        ring_release(&w.ring)
        e = <const hk_event *>ring_next(&w.ring)


cdef void take_path_errors(worker *w, int which) noexcept nogil:
    cdef udp_icmp e
    cdef int i, err
    for i in range(16):
        err = udp_error(&w.udp, which, &e)
        if err == 0:
            return
        if err != EMSGSIZE:
            vtl_path_error(w.vtl, &e.to, e.quoted, e.size, w.now)


cdef void take_datagrams(worker *w, int which) noexcept nogil:
    """A batch from the network. VTL's `data` callbacks point into it until delivery_flush."""
    cdef udp_datagram d
    cdef uint32_t offset
    cdef int i
    cdef int trains = udp_receive(&w.udp, which)
    for i in range(trains):
        offset = 0
        while udp_split(&w.udp, i, &offset, &d):
            if vtl_recv(w.vtl, d.data, d.size, &d.source, d.ecn, w.now):
                w.n.datagrams_dropped += 1
    delivery_flush(w)


cdef void take_twin(worker *w, uint32_t slot, uint32_t events) noexcept nogil:
    cdef flow *f = w.flows[slot] if slot < w.max_flows else NULL
    if f == NULL or f.twin < 0:
        return
    if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        f.hup = True
    if events & EPOLLERR:
        flow_app_reset(w, f)
        return
    if events & EPOLLPRI and not f.urgent:
        f.urgent = True
        w.n.urgent += 1
    if events & EPOLLOUT:
        delivery_writable(w, f)
    if f.twin >= 0 and (f.hup or events & (EPOLLIN | EPOLLPRI)):
        collect_twin(w, f)


cdef void dispatch(worker *w, epoll_event *ev) noexcept nogil:
    cdef uint32_t tag = ev.data.u64 >> 32
    cdef uint64_t junk
    if tag == TAG_TWIN:
        take_twin(w, <uint32_t>ev.data.u64, ev.events)
    elif tag == TAG_REDIRECT:
        collect_redirected(w)
    elif tag == TAG_UDP4 or tag == TAG_UDP6:
        if ev.events & EPOLLERR:
            take_path_errors(w, tag - TAG_UDP4)
        take_datagrams(w, tag - TAG_UDP4)
    elif tag == TAG_WAKE:
        read(w.wake_fd, &junk, sizeof(junk))
        flows_routed(w)


cdef void send_datagrams(worker *w) noexcept nogil:
    cdef int i
    for i in range(BUILDS):
        if w.batch_at == w.batch.dgram_len:
            w.batch.iov_len = w.batch.dgram_len = w.batch.scratch_len = w.batch.sealed_len = 0
            w.batch_at = 0
            if vtl_build(w.vtl, &w.batch, w.now) <= 0:
                return
        w.batch_at = udp_send(&w.udp, &w.batch, w.batch_at)
        if w.batch_at < w.batch.dgram_len:
            return                        # the socket is full: it goes on in the next round


cdef uint64_t wait_for(worker *w) noexcept nogil:
    """Nanoseconds the loop may sleep."""
    cdef uint64_t at = vtl_timer(w.vtl), held = flows_deadline(w), now
    if w.retry != NULL or w.done != NULL:
        return 0
    if w.batch_at < w.batch.dgram_len:
        return 100000                     # the UDP socket was full
    if held < at:
        at = held
    if w.starved and w.tap != NULL and w.now + LET_GO < at:
        at = w.now + LET_GO           # nobody says when a view that was kept goes
    if (w.slabs.free_count > RESERVE or vtl_held_less(w.vtl) > TRIM) and w.swept + SWEEP < at:
        at = w.swept + SWEEP          # memory goes back, even if nothing else happens
    if at == <uint64_t>-1:
        return at
    now = clock_ns()
    return at - now if at > now else 0


cdef void arm_redirect(worker *w) noexcept nogil:
    """Without a free slab the redirect socket is not listened to: its queue is bounded by credit."""
    cdef epoll_event ev
    cdef bint want = not w.starved
    if w.parser.broken:
        return
    if want == w.redirect_armed:
        return
    ev.events = EPOLLIN if want else 0
    ev.data.u64 = <uint64_t>TAG_REDIRECT << 32
    epoll_ctl(w.epoll_fd, EPOLL_CTL_MOD, w.redirect_fd, &ev)
    w.redirect_armed = want


cdef void give_back(worker *w) noexcept nogil:
    """To the system, what was needed for a peak."""
    pool_trim(&w.slabs)
    if vtl_held_less(w.vtl) > TRIM:
        vtl_held_noted(w.vtl)
        malloc_trim(0)


cdef void round(worker *w) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef uint64_t ns = wait_for(w)
    cdef int n, i
    arm_redirect(w)
    lock_give(&w.lock)
    n = wait_events(&w.poll, &w.ring, w.epoll_fd, events, EVENTS, ns)
    lock_take(&w.lock)
    w.now = clock_ns()
    w.n.loops += 1
    take_kernel_events(w)
    for i in range(n):
        dispatch(w, &events[i])
    collection_retry(w)
    collection_feed(w)
    if vtl_timer(w.vtl) <= w.now:
        vtl_on_timer(w.vtl, w.now)
    if flows_deadline(w) <= w.now:
        flows_on_timer(w)
    if w.now - w.swept >= SWEEP:
        flows_sweep(w)
        give_back(w)
    delivery_flush(w)
    send_datagrams(w)
    flows_reap(w)
    wake_python(w)


cdef void wake_python(worker *w) noexcept nogil:
    cdef uint64_t one = 1
    cdef uint64_t wanted = 0 if w.listening else NOTICES // 2     # nobody waits for them: only before the ring is full
    if w.notice_head != w.notice_told and w.notice_head - hk_load64(&w.notice_tail) > wanted:
        w.notice_told = w.notice_head
        write(w.notice_fd, &one, sizeof(one))


cdef void run(worker *w) noexcept nogil:
    cdef int i
    lock_take(&w.lock)
    while not hk_load32(&w.stop):
        round(w)
    w.now = clock_ns()
    flows_stop(w)
    for i in range(4):                    # tell the peers; what is lost they find out by time
        send_datagrams(w)
    for i in range(SETTLE):
        if flows_settled(w):
            break
        usleep(1000)
    wake_python(w)
    lock_give(&w.lock)


# ---- Python's side -----------------------------------------------------------------------------------

cdef int watch(worker *w, int fd, uint64_t tag) except -1:
    cdef epoll_event ev
    ev.events = EPOLLIN
    ev.data.u64 = tag << 32
    if epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0:
        raise OSError(errno, os.strerror(errno))
    return 0


cdef void close_fd(int *fd) noexcept nogil:
    cdef int number = fd[0]
    fd[0] = -1                    # first: its number may be another file's as soon as it is closed
    if number >= 0:
        close(number)


cdef void close_files(worker *w) noexcept nogil:
    ring_detach(&w.ring)
    udp_close(&w.udp)
    nudger_close(&w.nudger)
    close_fd(&w.epoll_fd)
    close_fd(&w.wake_fd)
    close_fd(&w.notice_fd)
    close_fd(&w.route_fd)


cdef void let_go(worker *w) noexcept nogil:
    """Under the lock. What is freed may call Python: a controller ends with its association."""
    cdef vtl_endpoint *vtl = w.vtl
    w.vtl = NULL
    w.live = w.peer_count = 0
    if vtl != NULL:
        vtl_endpoint_free(vtl)
    early_free(w)
    flows_free(w)
    delivery_free(w)
    close_files(w)


cdef void forget(worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.max_flows if w.flows != NULL else 0):
        if w.flows[i] != NULL:
            close_fd(&w.flows[i].twin)
    close_files(w)


cdef class Worker:
    """The engine's worker, made from file descriptors of loaded maps.

    `run()` returns after `stop()`; call it in a thread of its own. All times are seconds, all sizes bytes.
    Raises OSError when a socket cannot be made, MemoryError, KernelError for a map that cannot be mapped.
    """

    cdef worker w
    cdef object keep

    def __cinit__(self):
        memset(&self.w, 0, sizeof(worker))
        lock_init(&self.w.lock)
        self.w.epoll_fd = self.w.wake_fd = self.w.notice_fd = self.w.route_fd = self.w.redirect_fd = -1
        self.w.udp.fd[0] = self.w.udp.fd[1] = -1
        self.w.nudger.v4 = self.w.nudger.v6 = -1

    def __init__(self, *, int ring_fd, int ring_size, int free_fd, int avoid_fd,
                 int adopt_fd, int redirect_fd, size_t records, size_t attention, uint32_t max_flows, uint16_t port, uint16_t peer_port, uint8_t transport,
                 double hold_time, double avoid_time=60.0, double dead_after=5.0, tuple datagrams=(1472, 1472), congestion="auto",
                 tuple keys=(), bint fec=True,
                 int mark=0, double busy_poll=0.0, bint listening=True, tap=None):
        cdef worker *w = &self.w
        cdef uint16_t bound = 0
        cdef int r
        w.ring_fd, w.free_fd, w.avoid_fd = ring_fd, free_fd, avoid_fd
        w.redirect_fd = redirect_fd
        w.adopt_fd = adopt_fd
        w.records = <hk_flow *>records
        w.max_flows = max_flows
        w.peer_port = peer_port
        w.mark = mark
        w.transport = transport
        w.hold_client = <uint64_t>(hold_time * 1e9)
        w.hold_server = <uint64_t>((hold_time + dead_after + 2.0) * 1e9)
        w.hold_open = <uint64_t>(hold_time * 0.8e9)
        w.avoid_for = <uint64_t>(avoid_time * 1e9)
        w.redirect_armed = True
        w.listening = listening
        poll_init(&w.poll, <uint64_t>(busy_poll * 1e9))
        self.keep = tap
        w.owner = <void *>self
        w.tap = <void *>tap if tap is not None else NULL
        w.now = clock_ns()
        r = ring_attach(&w.ring, ring_fd, ring_size, <hk_attention *>attention)
        if r < 0:
            raise KernelError(f"cannot map the event ring: {os.strerror(-r)}")
        r = udp_open(&w.udp, port, &bound)
        if r < 0:
            raise OSError(-r, f"cannot open UDP port {port}: {os.strerror(-r)}")
        r = nudger_open(&w.nudger)
        if r < 0:
            raise OSError(-r, f"cannot open a raw socket: {os.strerror(-r)}")
        self.allocate()
        self.start_vtl(dead_after, datagrams, congestion, keys, fec)
        self.open_epoll()
        self.port = w.port = bound

    cdef readonly uint16_t port

    cdef int allocate(self) except -1:
        cdef worker *w = &self.w
        w.notices = <notice *>calloc(NOTICES, sizeof(notice))
        w.frames = <frame_entry *>calloc(FRAMES, sizeof(frame_entry))
        w.batch.iov = <iovec *>malloc(IOVECS * sizeof(iovec))
        w.batch.iov_cap = IOVECS
        w.batch.dgram = <vtl_datagram *>malloc(DATAGRAMS * sizeof(vtl_datagram))
        w.batch.dgram_cap = DATAGRAMS
        w.batch.scratch = <uint8_t *>malloc(SCRATCH)
        w.batch.scratch_cap = SCRATCH
        cb_random(w, <uint8_t *>w.scatter, sizeof(w.scatter))
        frames_init(&w.parser)
        if (flows_init(w) < 0 or pool_init(&w.slabs, SLAB, SLABS) < 0 or w.notices == NULL or w.frames == NULL
                or w.batch.iov == NULL or w.batch.dgram == NULL or w.batch.scratch == NULL):
            raise MemoryError("engine buffers")
        return 0

    cdef int use_keys(self, vtl_config *c, tuple keys) except -1:
        cdef worker *w = &self.w
        cdef bytes key
        for key in keys:
            memcpy(c.key[c.keys], <const char *>key, VTL_KEY_SIZE)
            c.keys += 1
        c.n_versions = vtl_encrypted_versions(c.versions)
        w.batch.sealed_cap = DATAGRAMS * c.max_datagram
        w.batch.sealed = <uint8_t *>malloc(w.batch.sealed_cap)
        if w.batch.sealed == NULL:
            raise MemoryError("engine buffers")
        return 0

    cdef int start_vtl(self, double dead_after, tuple datagrams, str congestion, tuple keys, bint fec) except -1:
        cdef bytes name = check_congestion(congestion).encode()    # it may have been unregistered meanwhile
        cdef vtl_config c
        cdef vtl_sink sink
        memset(&c, 0, sizeof(c))
        memset(&sink, 0, sizeof(sink))
        c.versions[0] = c.n_versions = 1
        c.first_datagram, c.max_datagram = datagrams
        if keys:
            self.use_keys(&c, keys)
        c.stream_window = 4 << 20
        c.assoc_window = 16 << 20
        c.stream_window_max = 32 << 20     # 1 Gbit/s over 100 ms, and as much again while a loss is repaired
        c.assoc_window_max = 64 << 20
        c.window_budget = 256 << 20
        c.budget = BUDGET
        c.max_ack_delay = 1000000
        c.keepalive = 1000000000
        c.dead_after = <uint64_t>(dead_after * 1e9)
        c.idle_after = 120000000000
        c.handshake_timeout = 3000000000
        c.fec = fec
        memcpy(c.congestion, <const char *>name, min(len(name), 15))
        fill_sink(&sink, &self.w)
        self.w.vtl = vtl_endpoint_new(&c, &sink)
        if self.w.vtl == NULL:
            raise MemoryError("VTL endpoint")
        return 0

    cdef int open_epoll(self) except -1:
        cdef worker *w = &self.w
        w.epoll_fd = epoll_create1(0x80000)   # EPOLL_CLOEXEC
        if w.epoll_fd < 0:
            raise OSError(errno, os.strerror(errno))
        w.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        w.notice_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        w.route_fd = os.eventfd(0, os.EFD_CLOEXEC)
        watch(w, w.wake_fd, TAG_WAKE)
        watch(w, w.ring_fd, TAG_RING)
        watch(w, w.redirect_fd, TAG_REDIRECT)
        watch(w, w.udp.fd[0], TAG_UDP4)
        if w.udp.fd[1] >= 0:
            watch(w, w.udp.fd[1], TAG_UDP6)
        return 0

    def close(self):
        """Let go of sockets, maps and flows. May be called twice. Raises UsageError as long as run() has not returned."""
        if self.w.running:
            raise UsageError("the worker still runs and uses what would be freed", remedy="stop() it first")
        with nogil:
            lock_take(&self.w.lock)
        let_go(&self.w)
        lock_give(&self.w.lock)

    def forget(self):
        """In a forked child: close its copies. With them the twins would outlive an engine that is killed, and
        applications wait for it."""
        forget(&self.w)

    def __dealloc__(self):
        cdef worker *w = &self.w
        let_go(w)                        # nobody runs it: run() would hold a reference
        pool_free(&w.slabs)              # not before: a tap may have kept views
        free(w.notices)
        free(w.frames)
        free(w.batch.iov)
        free(w.batch.dgram)
        free(w.batch.scratch)
        free(w.batch.sealed)

    def run(self):
        """The loop; blocks without the GIL until stop(). Raises UsageError when it runs already or is closed."""
        if self.w.running or self.w.vtl == NULL:
            raise UsageError("the worker runs already, or is closed")
        self.w.running = True
        with nogil:
            run(&self.w)
        self.w.running = False

    def stop(self):
        """End run() soon: held flows go back to TCP, engaged ones are reset."""
        cdef uint64_t one = 1
        hk_store32(&self.w.stop, True)
        write(self.w.wake_fd, &one, sizeof(one))

    def fileno(self):
        """Readable when events() has something."""
        return self.w.notice_fd

    def route_fileno(self):
        """Readable, and nobody reads it, once the first candidate is here: the routing rule is wanted."""
        return self.w.route_fd

    def route_installed(self, bint ok):
        """The routing rule is there: flows that wait for it go on. Not `ok`: they, and new ones, go back to TCP until it is."""
        cdef uint64_t one = 1
        hk_store32(&self.w.route, ROUTE_READY if ok else ROUTE_FAILED)
        write(self.w.wake_fd, &one, sizeof(one))

    def events(self, size_t most=NOTICES):
        """Events since the last call, the last `most` of them: list of (kind, reason, role, state, flow_id, local_ip, local_port,
        remote_ip, remote_port, bytes_out, bytes_in, time, held) — addresses as 16 bytes, times in seconds."""
        return view_notices(&self.w, most)

    def flows(self):
        """One tuple a flow: (flow_id, role, state, reason, local_ip, local_port, remote_ip, remote_port,
        bytes_out, bytes_in, backlog, spills, ended). Raises UsageError in a tap or a controller, as do the next two."""
        return view_flows(&self.w)

    def peers(self):
        """One tuple an association that is up: (ip as 16 bytes, port, statistics by name; *_ns nanoseconds)."""
        return view_peers(&self.w)

    def counters(self):
        """Counts since the start, by name."""
        return view_counters(&self.w)

    def reasons(self):
        """How many flows ended or stayed on TCP for each reason."""
        return view_reasons(&self.w)

    def ended(self):
        """Of these, how many had run over the transport."""
        return view_ended(&self.w)
