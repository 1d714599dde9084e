"""The worker: one loop over epoll, without the GIL, that carries all flows of an engine.

A round: wait; take what the kernel programs, hk0 and the network have; let time act; give the local TCPs what has come for
them, then their acknowledgements; let the transports send. Nothing in it allocates per segment, and no flow has a
descriptor, a socket, or a place in a list that is walked.
"""

import os

from libc.stdint cimport UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from hooker.engine.destroy cimport destroyer_open
from hooker.engine.frames cimport frame_entry, frames_init
from hooker.engine.lock cimport lock_give, lock_init, lock_take
from hooker.engine.notices cimport notices_free, notices_init, notices_trim
from hooker.engine.places cimport places_free, places_trim, places_wait
from hooker.engine.polling cimport poll_init, wait_events
from hooker.engine.ringbuf cimport ring_attach, ring_detach
from hooker.engine.actions cimport (
    flow_chosen, flow_closed, flow_due,
)
from hooker.engine.cells cimport cells_free, cells_init, cells_trim
from hooker.engine.channel cimport channel_rest
from hooker.engine.collected cimport TAG_REDIRECT, collect, collect_arm
from hooker.engine.flows cimport *
from hooker.engine.greeting cimport greet_again, peer_down, peer_up, tell_transport
from hooker.engine.hk0 cimport flush_acks
from hooker.engine.holes cimport on_hole
from hooker.engine.kernel cimport closes, take_kernel_events
from hooker.engine.local cimport take_segments
from hooker.engine.lane cimport (
    lane_forget, lane_restored, lane_watch, lanes_close, lanes_deadline, lanes_due, lanes_init, lanes_rest, lanes_ruled,
)
from hooker.engine.lent cimport lent_back
from hooker.engine.passed cimport flush_senders
from hooker.engine.peers cimport peer_of
from hooker.engine.redirected cimport redirected_start
from hooker.engine.remote cimport flush_runs, on_message, runs_free, runs_init
from hooker.engine.rest cimport flow_rests
from hooker.engine.trail cimport TRAIL_ALWAYS, TRAIL_AUTO, TRAIL_NEVER, trail_flush
from hooker.engine.turns cimport turns_due, turns_free, turns_take, walk_begin
from hooker.engine.unread cimport is_read, queue_empty, queue_share
from hooker.engine.view cimport (
    look, view_counters, view_ended, view_flows, view_lanes, view_notices, view_peers, view_reasons, view_table,
)
from hooker.engine.wire cimport wire_close, wire_open
from hooker.engine.worker cimport *
from hooker.engine.slab cimport RESERVE, pool_free, pool_init, pool_trim
from hooker.includes.clock cimport clock_ns
from hooker.includes.timers cimport timer_clear, timers_next
from hooker.flow.machine cimport flow_compose, flow_defaults
from hooker.flow.messages cimport MSG_ACKED, Message
from hooker.includes.hk cimport *
from hooker.includes.linux cimport *
from hooker.engine.tun cimport PACED, QUEUE, SLOT
from hooker.transports.contract cimport OWN_TAG, T_REPAIRS, Association, Handle, Sink, Transport, down_reason

from hooker.engine.frames import frame_dtype
from hooker.errors import ConfigurationError, KernelError, UsageError
from hooker.transports.makers import (
    BUDGET, Function, PrototypeError, Settings, code, is_complete, make, why_not_open,
)

cdef enum:
    EVENTS = 256               # of one epoll_wait
    READS = 64                 # packets of hk0 in one round, beside answers
    LAST_READS = 4096          # of a round in which a socket has ended
    TIMERS_A_ROUND = 4096
    PROBES_A_ROUND = PACED // 4
    SLAB = 1 << 19             # bytes
    SLABS = 256
    SWEEP = 1000000000         # ns
    SWEEP_SHARE = 8            # of all slots, each time
    LEAVING = 150000000        # ns in which, at the end, peers are told and segments that still come are bridged
    LET_GO = 10000000          # ns between looks for slabs that only a tap's views hold
    TRIM = 8 << 20             # bytes less than at the peak that are worth a malloc_trim()
    RESTED = 1024              # channels given back that are, too: what their flows said when they began lies between them
    ASK_AGAIN = 5              # s: for so long a host without an engine is remembered
    PORT_TRIES = 16            # for a port that is free for all transports
    TAG_WAKE = 1               # epoll tags
    TAG_RING = 2               # only wakes: the ring is looked at in each round
    TAG_HK0 = 3
    TAG_TRANSPORT = 4          # then which one, and what it calls the descriptor

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


# ---- what transports say -----------------------------------------------------------------------------

cdef void cb_assoc_up(void *ctx, Association *a) noexcept nogil:
    peer_up(<worker *>ctx, a)


cdef void cb_assoc_down(void *ctx, Association *a, down_reason why) noexcept nogil:
    peer_down(<worker *>ctx, a, why)


cdef void cb_message(void *ctx, Association *a, const Message *m, bint stable) noexcept nogil:
    on_message(<worker *>ctx, a, m, stable)


cdef void cb_hole(void *ctx, Association *a, const Message *m) noexcept nogil:
    on_hole(<worker *>ctx, a, m)


cdef void cb_settle(void *ctx) noexcept nogil:
    flush_runs(<worker *>ctx)


cdef bint cb_report(void *ctx, void *user, Message *out) noexcept nogil:
    flow_compose(&(<flow *>user).f, MSG_ACKED, (<worker *>ctx).now, out)
    return True


cdef void cb_channel_down(void *ctx, void *user) noexcept nogil:
    """Its flow hears of it when its peer's flows have their turn."""
    cdef flow *f = <flow *>user
    f.channel.ops.channel_close(f.channel)
    f.channel = NULL


cdef void cb_release(void *ctx, void *owner, size_t n) noexcept nogil:
    lent_back(<worker *>ctx, <lot *>owner, n)


cdef void cb_failed(void *ctx, Transport *t) noexcept nogil:
    tell_transport(<worker *>ctx, t)


cdef void fill_sink(Sink *s, worker *w) noexcept nogil:
    s.ctx = w
    s.assoc_up = cb_assoc_up
    s.assoc_down = cb_assoc_down
    s.message = cb_message
    s.hole = cb_hole
    s.settle = cb_settle
    s.report = cb_report
    s.release = cb_release
    s.channel_down = cb_channel_down
    s.failed = cb_failed


# ---- sockets that are gone --------------------------------------------------------------------------

cdef void take_closing(worker *w) noexcept nogil:
    cdef flow *f
    cdef flow *following
    if w.ending == NULL:
        w.ending, w.closing, w.ending_ns = w.closing, NULL, w.now
    if w.ending == NULL:
        return
    if take_segments(w, LAST_READS) and not is_read(w, w.ending_ns):
        return
    f = w.ending
    w.ending = NULL
    while f != NULL:
        following = f.closed_next
        f.bits &= ~<uint16_t>F_CLOSING
        if f.bits & F_FORGET:               # its addresses were used again meanwhile
            f.closed_next = w.over
            w.over = f
        else:
            flow_closed(w, f)
        f = following


# ---- one round ---------------------------------------------------------------------------------------

cdef void hear_first(worker *w) noexcept nogil:
    """We have slept, or stood still for so long that peers may have left: what they said comes before what our TCPs want to be
    sent, which would be lost on who has left. Never twice in a row: who floods us, and makes rounds so long, gains no share."""
    cdef uint32_t i
    for i in range(w.transport_n):
        w.transports[i].ops.catch_up(w.transports[i], w.now)


cdef void device_gone(worker *w) noexcept nogil:
    """Somebody has removed hk0, so its sockets are on the wire. All flows stay there, and whoever asks is told why."""
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, w.tun_fd, NULL)     # it would wake us for ever
    w.device_gone = True
    walk_begin(w)


cdef bint has_hk0(const epoll_event *events, int n) noexcept nogil:
    cdef int i
    for i in range(n):
        if events[i].data.u64 >> 32 == TAG_HK0:
            return True
    return False


cdef void dispatch(worker *w, epoll_event *ev) noexcept nogil:
    cdef uint32_t tag = ev.data.u64 >> 32
    cdef uint64_t junk
    cdef Transport *t
    if tag == TAG_HK0 and ev.events & EPOLLERR:
        device_gone(w)
    elif tag == TAG_HK0:
        take_segments(w, queue_share(w, READS))
    elif tag == TAG_REDIRECT:
        collect(w)
    elif tag == TAG_TRANSPORT:
        t = w.transports[<uint32_t>ev.data.u64 >> 24]
        t.ops.ready(t, ev.data.u64 & OWN_TAG, ev.events, w.now)
    elif tag == TAG_WAKE:
        read(w.wake_fd, &junk, sizeof(junk))


cdef void take_timers(worker *w) noexcept nogil:
    """In their order. Each probe draws an answer, for which there is room in hk0's queue: the others come when that was read."""
    cdef uint32_t left = TIMERS_A_ROUND
    cdef uint64_t probes = w.n.probes + PROBES_A_ROUND
    cdef flow *f
    while left > 0 and w.n.probes < probes and timers_next(&w.timers) <= w.now:
        left -= 1
        f = <flow *>w.timers.v[0]               # its timer is its first member
        timer_clear(&w.timers, &f.due)
        flow_due(w, f)


cdef void transports_on_time(worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.transport_n):
        w.transports[i].ops.on_time(w.transports[i], w.now)


cdef void transports_flush(worker *w) noexcept nogil:
    cdef uint32_t i
    for i in range(w.transport_n):
        w.transports[i].ops.flush(w.transports[i], w.now)


cdef uint64_t transports_deadline(worker *w) noexcept nogil:
    cdef uint64_t at = UINT64_MAX
    cdef uint32_t i
    for i in range(w.transport_n):
        at = min(at, w.transports[i].ops.deadline(w.transports[i]))
    return at


cdef uint64_t held_less(worker *w) noexcept nogil:
    """Bytes that peers make the transports hold, less than they did."""
    cdef uint64_t n = 0
    cdef uint32_t i
    for i in range(w.transport_n):
        n += w.transports[i].ops.held_less(w.transports[i])
    return n


cdef uint64_t wait_for(worker *w) noexcept nogil:
    """Nanoseconds the loop may sleep."""
    cdef uint64_t at = min(min(transports_deadline(w), timers_next(&w.timers)), lanes_deadline(w)), now
    if turns_due(w) or w.unmark_first != NULL or w.closing != NULL or w.ending != NULL:
        return 0
    if w.starved and w.tap != NULL:
        at = min(at, w.now + LET_GO)            # nobody says when a view that was kept goes
    if (w.live or w.stray_n or w.greeting or w.slabs.free_count > RESERVE or held_less(w) > TRIM
            or places_wait(&w.flow_room) or places_wait(&w.active)):
        at = min(at, w.swept + SWEEP)
    if at == UINT64_MAX:
        return at
    now = clock_ns()
    return at - now if at > now else 0


cdef void sweep(worker *w) noexcept nogil:
    """Memory goes back; and a part of the slots is looked over, for flows that rest, and for ends whose event was lost (the
    ring was full)."""
    cdef uint32_t i
    cdef flow *f
    w.swept = w.now
    pool_trim(&w.slabs)
    cells_trim(&w.kept)
    cells_trim(&w.stash)
    notices_trim(w)
    places_trim(&w.flow_room)
    places_trim(&w.active)
    if held_less(w) > TRIM or w.n.channels_rested - w.trimmed > RESTED:
        for i in range(w.transport_n):
            w.transports[i].ops.held_noted(w.transports[i])
        w.trimmed = w.n.channels_rested
        malloc_trim(0)
    if w.greeting:
        greet_again(w)
    for i in range(w.max_flows // SWEEP_SHARE + 1 if w.live or w.stray_n else 0):
        f = w.flows[w.sweep_at]
        if w.strays[w.sweep_at] and hk_load32(&w.records[w.sweep_at].app_closed):
            slot_back(w, w.records[w.sweep_at].flow_id)
        w.sweep_at = (w.sweep_at + 1) % w.max_flows
        if f != NULL and hk_load32(&f.rec.app_closed):
            closes(w, f)
        elif f != NULL and hk_load32(&f.rec.steered) and not f.bits & F_STEERED:
            flow_chosen(w, f)
        elif f != NULL:
            channel_rest(w, f)
            flow_rests(w, f)


cdef void wake_python(worker *w) noexcept nogil:
    cdef uint64_t one = 1
    cdef uint64_t wanted = 0 if w.listening else NOTICES // 2     # nobody waits for them: only before the ring is full
    if w.notice_head != w.notice_told and w.notice_head - hk_load64(&w.notice_tail) > wanted:
        w.notice_told = w.notice_head
        write(w.notice_fd, &one, sizeof(one))


cdef void round(worker *w, uint64_t most) noexcept nogil:
    cdef epoll_event events[EVENTS]
    cdef uint64_t ns = min(wait_for(w), most), before = w.now
    cdef bint was_late
    cdef int n, i
    collect_arm(w)
    lock_give(&w.lock)
    n = wait_events(&w.poll, &w.ring, w.epoll_fd, events, EVENTS, ns)
    lock_take(&w.lock)
    w.now = clock_ns()
    w.n.loops += 1
    hk_store64(&w.ring.attention.looked, w.now)
    if 0 <= n < EVENTS and not has_hk0(events, n):       # else there may be more descriptors
        queue_empty(w)
    take_kernel_events(w)
    was_late = w.late
    w.late = w.now - before > w.config.silence
    if w.late and not was_late:
        hear_first(w)
    for i in range(n):
        dispatch(w, &events[i])
    if w.unmark_first != NULL:
        take_segments(w, READS)
    take_closing(w)
    transports_on_time(w)
    take_timers(w)
    if lanes_due(w):
        walk_begin(w)
    turns_take(w)
    if w.now - w.swept >= SWEEP:
        sweep(w)
    flush_senders(w)
    flush_acks(w)
    trail_flush(w)
    transports_flush(w)
    flush_acks(w)                               # of flows whose association has just gone down: none is left in the list
    flows_reap(w)
    wake_python(w)


cdef void run(worker *w) noexcept nogil:
    cdef uint64_t until
    cdef uint32_t i
    lock_take(&w.lock)
    while not hk_load32(&w.stop):
        round(w, UINT64_MAX)
    w.leaving = True
    walk_begin(w)
    while w.walking:
        round(w, LEAVING)
    until = w.now + LEAVING
    while w.now < until:
        round(w, LEAVING // 8)
    for i in range(w.peer_count, 0, -1):
        w.peers[i - 1].a.ops.close(w.peers[i - 1].a, w.now)   # assoc_down takes it off the list
    for i in range(4):
        transports_flush(w)
    flows_reap(w)
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
    fd[0] = -1                 # first: its number may be another file's as soon as it is closed
    if number >= 0:
        close(number)


cdef void close_files(worker *w) noexcept nogil:
    cdef int i
    lanes_close(w)
    ring_detach(&w.ring)
    for i in range(TRANSPORTS):
        if w.transports[i] != NULL:
            w.transports[i].ops.close_files(w.transports[i])
    wire_close(w)
    close_fd(&w.epoll_fd)
    close_fd(&w.wake_fd)
    close_fd(&w.notice_fd)
    close_fd(&w.route_fd)
    close_fd(&w.missed_fd)
    close_fd(&w.destroy_fd)


cdef void let_go(worker *w) noexcept nogil:
    """Under the lock. What a transport frees may call Python. They stay, for their counts, as long as the worker's object."""
    cdef uint32_t n = w.transport_n, i
    w.transport_n = 0
    flows_free(w)              # their channels first
    turns_free(w)
    w.live = w.peer_count = 0
    for i in range(n):
        w.transports[i].ops.shut(w.transports[i])
    close_files(w)


cdef class Worker:
    """The engine's worker, made from file descriptors of loaded maps and of hk0, which stay their owners'.

    `slabs`: of 512 KiB, for what local TCPs have sent and peers have not acknowledged. `redirects`: address of the
    mapped records of redirected flows; `adopt_fd`, `redirect_fd`: the program that adopts, and the socket that
    messages are redirected to. Without them nothing is. `tap(frames, payload)`: see hooker/engine/tap.pyx.
    `transports`: numbers of those that flows may be moved onto, as in the TCP option, the preferred one first; all
    listen on `port`; `parameters`: of each, by number, where a user has given any; `named`: name and place of one that has no number of its own (a user's class, another package's carrier).
    What the settings exclude, and what cannot have that port, is left out as long as another one remains:
    `skipped` has the reasons, by number. `run()` returns after `stop()`; call it in a thread of its own. All times are seconds, all sizes bytes.
    Raises OSError when a socket cannot be made, ConfigurationError when the settings leave no transport, MemoryError,
    KernelError for a map that cannot be mapped.
    """

    cdef worker w
    cdef object keep                            # the tap
    cdef list handles                           # of the transports
    cdef readonly uint16_t port
    cdef readonly dict skipped

    def __cinit__(self):
        memset(&self.w, 0, sizeof(worker))
        lock_init(&self.w.lock)
        lanes_init(&self.w)
        self.w.epoll_fd = self.w.wake_fd = self.w.notice_fd = self.w.route_fd = self.w.missed_fd = self.w.tun_fd = -1
        self.w.adopt_fd = self.w.redirect_fd = self.w.destroy_fd = -1
        self.w.raw4 = self.w.raw6 = -1
        self.handles = []
        self.skipped = {}

    def __init__(self, *, int ring_fd, int ring_size, int free_fd, int avoid_fd, size_t records, size_t attention,
                 uint32_t max_flows, uint16_t port, uint16_t peer_port, tuple transports, int tun_fd, uint32_t tun_queue=QUEUE, int warm_fd=-1, uint32_t mark=0,
                 double hold_time=0.0, double avoid_time=60.0, double dead_after=5.0, tuple datagrams=(1472, 1472), congestion="auto",
                 tuple rules=((0, Function()),),
                 tuple keys=(), bint fec=True, double busy_poll=0.0, bint listening=True, uint32_t slabs=SLABS,
                 str trail="auto", size_t redirects=0, int adopt_fd=-1, int redirect_fd=-1, tap=None,
                 dict parameters={}, tuple named=("", "")):
        cdef worker *w = &self.w
        cdef uint16_t bound = 0
        cdef int r
        if max_flows == 0 or max_flows & (max_flows - 1):
            raise ValueError(f"max_flows must be a power of two, not {max_flows}")
        w.ring_fd, w.free_fd, w.avoid_fd, w.tun_fd, w.warm_fd = ring_fd, free_fd, avoid_fd, tun_fd, warm_fd
        w.tun_queue = tun_queue
        w.records = <hk_flow *>records
        w.max_flows, w.mark = max_flows, mark
        w.peer_port = peer_port
        w.hold_for = <uint64_t>(hold_time * 1e9)
        w.redirects, w.adopt_fd, w.redirect_fd = <hk_redirect *>redirects, adopt_fd, redirect_fd
        w.pinned = len(keys) > 0 or redirects != 0  # what is redirected is not in the kernel's queue
        self.keep = tap
        w.owner = <void *>self
        if tap is not None:
            frame_dtype()                          # not in the midst of the first batch
        w.tap = <void *>tap if tap is not None else NULL
        # Where nothing is held, a connection that asks in vain waits for nothing: ask again soon.
        w.avoid_for = <uint64_t>((avoid_time if hold_time else min(avoid_time, ASK_AGAIN)) * 1e9)
        w.listening = listening
        w.trail = {"never": TRAIL_NEVER, "auto": TRAIL_AUTO, "always": TRAIL_ALWAYS}[trail]
        flow_defaults(&w.config)
        w.config.repairs = True                 # what redirected bytes need of a transport
        redirected_start(w, <uint64_t>slabs * SLAB)
        frames_init(&w.parser)
        w.redirect_armed = True
        poll_init(&w.poll, <uint64_t>(busy_poll * 1e9))
        w.now = clock_ns()
        r = ring_attach(&w.ring, ring_fd, ring_size, <hk_attention *>attention)
        if r < 0:
            raise KernelError(f"cannot map the event ring: {os.strerror(-r)}")
        r = wire_open(w)
        if r < 0:
            raise OSError(-r, f"cannot open a raw socket: {os.strerror(-r)}")
        w.destroy_fd = destroyer_open()         # without it sockets are not ended, and that is counted
        self.allocate(slabs)
        self.open_epoll()
        self.make_transports(
            transports,
            Settings(
                dead_after, datagrams, congestion, keys, fec, parameters, tuple([function for _, function in rules]), redirects == 0,
                BUDGET // max(1, len(transports)),  # a peer may come by each of them
                named,
            ),
        )
        self.set_rules(rules)
        bound = self.open_transports(port)
        self.port = w.port = bound

    cdef int allocate(self, uint32_t slabs) except -1:
        cdef worker *w = &self.w
        w.frames = <frame_entry *>malloc(FRAMES * sizeof(frame_entry))
        w.spare = <uint8_t *>malloc(SLOT)
        w.cut = <uint8_t *>malloc(2 * SLOT)
        getrandom(w.scatter, sizeof(w.scatter), 0)
        getrandom(&w.instance, sizeof(w.instance), 0)
        w.instance |= 1                         # never 0
        if (flows_init(w) < 0 or runs_init(w) < 0 or cells_init(&w.kept, KEPT) < 0 or cells_init(&w.stash, STASH) < 0
                or pool_init(&w.slabs, SLAB, slabs) < 0 or notices_init(w) < 0
                or w.frames == NULL or w.spare == NULL or w.cut == NULL):
            raise MemoryError("engine buffers")
        return 0

    cdef int make_transports(self, tuple ids, object settings) except -1:
        """What the settings exclude is left out as long as another one remains."""
        if not 0 < len(ids) <= TRANSPORTS or len(set(ids)) < len(ids):
            raise ValueError(f"between one and {TRANSPORTS} transports, each once, not {ids}")
        for wire_id in ids:
            try:
                self.handles.append(make(wire_id, settings))
            except PrototypeError:
                raise                           # a mistake, whatever else there is
            except ConfigurationError as error:
                self.skipped[wire_id] = error.message
                remedy = error.remedy
        if not self.handles:
            raise ConfigurationError("; ".join(self.skipped.values()), remedy=remedy)
        self.place_transports()
        return 0

    cdef int place_transports(self) except -1:
        cdef worker *w = &self.w
        cdef Handle handle
        memset(w.transports, 0, sizeof(w.transports))
        w.transport_n = 0
        for handle in self.handles:
            handle.used = True                  # freed with the worker, whatever the collector clears before
            w.transports[w.transport_n] = handle.t
            handle.t.index, handle.t.tag, handle.t.epoll_fd = w.transport_n, TAG_TRANSPORT, w.epoll_fd
            fill_sink(&handle.t.sink, w)
            w.configs[w.transport_n] = w.config
            w.configs[w.transport_n].repairs = handle.t.properties & T_REPAIRS != 0
            w.configs[TRANSPORTS + w.transport_n] = w.config
            w.configs[TRANSPORTS + w.transport_n].repairs = False
            w.transport_n += 1
        return 0

    cdef int open_transports(self, uint16_t port) except -1:
        """The port; 0: one that is free for all of them. What cannot have it is left out as long as another one remains."""
        cdef worker *w = &self.w
        cdef uint16_t bound = port, got
        cdef uint32_t i
        cdef int r, tries = PORT_TRIES if port == 0 else 1
        while True:
            bound, r = port, 0
            for i in range(w.transport_n):
                got = bound
                r = w.transports[i].ops.open(w.transports[i], bound, &got)
                if r < 0:
                    break
                bound = got
            if r >= 0:
                return bound
            failed = i
            why = self.failure_of(failed)
            if why:
                raise PrototypeError(why)
            for i in range(w.transport_n):
                w.transports[i].ops.close_files(w.transports[i])
            tries -= 1
            if tries <= 0:
                self.leave_out(failed, -r, got or bound)

    cdef str failure_of(self, uint32_t at):
        cdef Handle handle = self.handles[at]
        return handle.failure()

    cdef int leave_out(self, uint32_t at, int error, uint16_t port) except -1:
        """One that could not be opened. Raises OSError with each reason when it is the last one."""
        cdef Handle handle = self.handles[at]
        cdef str why = why_not_open(handle.t.wire_id, port, error)
        self.skipped[handle.t.wire_id] = f"transport {handle.name}: {why}"
        if len(self.handles) == 1:
            raise OSError(error, "; ".join(self.skipped.values()))
        del self.handles[at]
        self.place_transports()
        handle.used = False                     # freed with its handle, now
        return 0

    cdef int open_epoll(self) except -1:
        cdef worker *w = &self.w
        w.epoll_fd = epoll_create1(0x80000)     # EPOLL_CLOEXEC
        if w.epoll_fd < 0:
            raise OSError(errno, os.strerror(errno))
        w.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        w.notice_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        w.route_fd = os.eventfd(0, os.EFD_CLOEXEC)
        w.missed_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        watch(w, w.wake_fd, TAG_WAKE)
        watch(w, w.ring_fd, TAG_RING)
        watch(w, w.tun_fd, TAG_HK0)
        if w.redirect_fd >= 0:
            watch(w, w.redirect_fd, TAG_REDIRECT)
        return 0

    def close(self):
        """Let go of sockets, maps and flows. May be called twice. Raises UsageError as long as run() has not returned."""
        if self.w.running:
            raise UsageError("the worker still runs and uses what would be freed", remedy="stop() it first")
        with nogil:
            lock_take(&self.w.lock)
        let_go(&self.w)
        lock_give(&self.w.lock)

    def attach(self, uint8_t wire_id, uint32_t ifindex, uint32_t queue):
        """Of what an XDP program leads to it of this queue, the transport with that number hears: a descriptor for the program's
        map, the transport's own. Raises OSError."""
        cdef worker *w = &self.w
        cdef int r = -EOPNOTSUPP
        cdef uint32_t i
        with nogil:
            lock_take(&w.lock)
            for i in range(w.transport_n):
                if w.transports[i].wire_id == wire_id and w.transports[i].ops.attach != NULL:
                    r = w.transports[i].ops.attach(w.transports[i], ifindex, queue)
            lock_give(&w.lock)
        if r < 0:
            raise OSError(-r, os.strerror(-r))
        return r

    def detach(self, uint8_t wire_id, uint32_t ifindex):
        """It hears of no queue of that interface any more, and sends nothing by it."""
        cdef worker *w = &self.w
        cdef uint32_t i
        with nogil:
            lock_take(&w.lock)
            for i in range(w.transport_n):
                if w.transports[i].wire_id == wire_id and w.transports[i].ops.detach != NULL:
                    w.transports[i].ops.detach(w.transports[i], ifindex)
            lock_give(&w.lock)

    def forget(self):
        """In a forked child: close its copies of descriptors."""
        close_files(&self.w)

    def __dealloc__(self):
        cdef worker *w = &self.w
        cdef int i
        let_go(w)                               # nobody runs it: run() would hold a reference
        places_free(&w.flow_room)
        places_free(&w.active)
        pool_free(&w.slabs)
        cells_free(&w.kept)
        cells_free(&w.stash)
        runs_free(w)
        notices_free(w)
        free(w.frames)
        free(w.spare)
        free(w.cut)
        for i in range(TRANSPORTS):
            if w.transports[i] != NULL:
                w.transports[i].ops.free(w.transports[i])

    def run(self):
        """The loop; blocks without the GIL until stop(). Raises UsageError when it runs already or is closed."""
        if self.w.running or self.w.transport_n == 0:
            raise UsageError("the worker runs already, or is closed")
        self.w.running = True
        with nogil:
            run(&self.w)
        self.w.running = False

    def stop(self):
        """End run() soon: all flows go back to TCP, and their peers' engines are told."""
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
        """The routing rule is there, or not yet. No flow waits for it: one whose segments do not come tries again."""
        cdef uint64_t one = 1
        if not ok:
            return
        with nogil:
            lock_take(&self.w.lock)
        if not self.w.ruled_ns:
            self.w.ruled_ns = clock_ns()
        lanes_ruled(&self.w)
        lock_give(&self.w.lock)
        write(self.w.wake_fd, &one, sizeof(one))

    def missed_fileno(self):
        """An eventfd, readable when a look at the lane came to nothing since it was read: a rule or route may be missing."""
        return self.w.missed_fd

    def route_restored(self, uint8_t version):
        """What led to hk0 in IP `version` had been taken away, and is back: flows find it again."""
        cdef uint64_t one = 1
        with nogil:
            lock_take(&self.w.lock)
        if self.w.ruled_ns:
            self.w.ruled_ns = clock_ns()
        lane_restored(&self.w, version)
        lock_give(&self.w.lock)
        write(self.w.wake_fd, &one, sizeof(one))

    def set_rules(self, tuple rules):
        """How flows that begin from now on are moved: (number of the transport that is asked for first, Function) for each
        policy rule, the engine's own first. Raises ValueError, ConfigurationError for an unknown function, and UsageError as
        flows() does."""
        cdef rule_way ways[HK_RULES]
        cdef uint32_t n = 0
        if not 0 < len(rules) <= HK_RULES:
            raise ValueError(f"between one and {HK_RULES} rules, not {len(rules)}")
        memset(ways, 0, sizeof(ways))
        for first, function in rules:
            ways[n].first, ways[n].function, ways[n].gives_up = first, code(function), not is_complete(function)
            n += 1
        look(&self.w)
        memcpy(self.w.rules, ways, sizeof(ways))
        lock_give(&self.w.lock)

    def watch(self, uint8_t version, bytes address, uint16_t port, int device=0):
        """Look, from now on, whether marked segments of IP `version` get through hk0 and back: by a connection to that address
        (4 or 16 bytes) and port, which never leaves this host while they do. `device`: hk0's index, to which its socket is bound
        until the routing rule is there; 0: it is there. Raises ValueError."""
        cdef uint64_t one = 1
        if (version, len(address)) not in ((4, 4), (6, 16)):
            raise ValueError(f"IPv{version} has no addresses of {len(address)} bytes")
        with nogil:
            lock_take(&self.w.lock)
        lane_watch(&self.w, version, <const uint8_t *><const char *>address, port, device)
        lock_give(&self.w.lock)
        write(self.w.wake_fd, &one, sizeof(one))

    def hang_up(self):
        """End the connections of `watch`; they begin again when the routing rule is there."""
        with nogil:
            lock_take(&self.w.lock)
        lanes_rest(&self.w)
        lock_give(&self.w.lock)

    def unwatch(self, uint8_t version):
        """Look no more; what was found is forgotten."""
        with nogil:
            lock_take(&self.w.lock)
        lane_forget(&self.w, version)
        lock_give(&self.w.lock)

    def lanes(self):
        """What is known of the lane: LaneRow by IP version."""
        return view_lanes(&self.w)

    def events(self, size_t most=NOTICES):
        """Events since the last call, the last `most` of them: list of (kind, reason, role, state, flow_id, local_ip, local_port,
        remote_ip, remote_port, bytes_out, bytes_in, time, age): addresses as 16 bytes, times in seconds."""
        return view_notices(&self.w, most, self.handles)

    def flows(self):
        """One tuple a flow: (flow_id, role, state, reason, local_ip, local_port, remote_ip, remote_port,
        bytes_out, bytes_in, backlog, spills, ended). Raises UsageError in a controller, as do the next two."""
        return view_flows(&self.w)

    def table(self, size_t most):
        """How many flows are in each state, by number (0: closed), and `most` of them as flows() has them."""
        return view_table(&self.w, most)

    def peers(self):
        """One tuple an association that is up: (ip as 16 bytes, port, statistics by name; *_ns nanoseconds; `transport`: its name)."""
        return view_peers(&self.w, self.handles)

    def counters(self):
        """Counts since the start, by name."""
        return view_counters(&self.w, self.handles)

    def reasons(self):
        """How many flows ended, left or stayed on TCP for each reason."""
        return view_reasons(&self.w)

    def ingress(self, int known_fd, int states_fd):
        """What hk_ingress is told of each transport that it is for (docs/ingress.md). Before run().

        The maps are kept up from then on; they stay their owner's, who closes them when the worker has stopped.
        """
        cdef Handle handle
        rows = [handle.ingress(known_fd, states_fd) for handle in self.handles]
        return [row for row in rows if row is not None]

    def failures(self):
        """Why transports carry nothing any more, by their names."""
        cdef Handle handle
        found = {}
        for handle in self.handles:
            if handle.failure():
                found[handle.name] = handle.failure()
        return found

    def ended(self):
        """Of these, how many had been engaged."""
        return view_ended(&self.w)
