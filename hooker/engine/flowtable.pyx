"""The flow table: slots, the index by locator, the list of those that are held, what is due when, and what Python is told.

A slot is the kernel's from the stack of free ids until the connection is established, then a flow's, and goes
back with the next generation when the flow is over and the application's socket is closed.
"""

from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy
from hooker.engine.slots cimport slot_give_back
from hooker.engine.backlog cimport backlog_drop
from hooker.includes.bpf cimport BPF_MAP_UPDATE_ELEM, hk_bpf_elem
from hooker.includes.hk cimport *
from hooker.includes.linux cimport *
from hooker.vtl.api cimport vtl_open_info, vtl_stream
from hooker.vtl.endpoint cimport vtl_locator, vtl_peer, vtl_prove, vtl_stream_assoc
from hooker.vtl.wire cimport store32
from hooker.includes.timers cimport timer_clear, timer_set, timers_free, timers_reserve
from hooker.engine.worker cimport *

cdef enum:
    LOCATOR_BUCKETS = 65536

REASONS = (
    "", "peer-without-hooker", "hold-timeout", "rejected-by-peer", "released-by-peer", "twin-failed",
    "application-closed", "out-of-memory", "closed", "reset-by-application", "reset-by-peer", "peer-lost",
    "engine-stopped", "protocol-error", "key-mismatch", "no-common-version", "no-route",
    "local-path-blocked",
)


cdef int flows_init(worker *w) noexcept nogil:
    w.flows = <flow **>calloc(w.max_flows, sizeof(flow *))
    w.by_locator = <flow **>calloc(LOCATOR_BUCKETS, sizeof(flow *))
    w.given_back = <uint32_t *>calloc(w.max_flows, sizeof(uint32_t))
    if w.flows == NULL or w.by_locator == NULL or w.given_back == NULL:
        return -1
    return timers_reserve(&w.flow_timers, w.max_flows)      # no flow is without its timer


cdef void flows_free(worker *w) noexcept nogil:
    cdef uint32_t i
    if w.flows != NULL:
        for i in range(w.max_flows):
            if w.flows[i] != NULL:
                backlog_drop(w, w.flows[i])
                free(w.flows[i])
    free(w.flows)
    free(w.by_locator)
    free(w.given_back)
    timers_free(&w.flow_timers)
    w.flows = NULL
    w.by_locator = NULL
    w.given_back = NULL


cdef flow *flow_by_id(worker *w, uint64_t id) noexcept nogil:
    cdef uint32_t slot = <uint32_t>id
    cdef flow *f = w.flows[slot] if slot < w.max_flows else NULL
    return f if f != NULL and f.id == id else NULL


cdef void tell(worker *w, flow *f, uint8_t kind) noexcept nogil:
    cdef notice *n
    if not w.listening and (kind == N_OPENED or kind == N_ENGAGED):
        return
    if w.notice_head - hk_load64(&w.notice_tail) >= NOTICES:
        w.n.notices_lost += 1
        return
    n = &w.notices[w.notice_head & (NOTICES - 1)]
    n.kind = kind
    n.why = f.why
    n.role = f.est.role
    n.state = f.state
    n.flow_id = f.id
    n.key = f.est.key
    n.bytes_out = f.bytes_out
    n.bytes_in = f.bytes_in
    n.at_ns = w.now
    n.waited_ns = (f.engaged_ns if f.engaged_ns else w.now) - f.opened_ns
    hk_store64(&w.notice_head, w.notice_head + 1)


cdef void set_key(flow *f) noexcept nogil:
    """What the handshake showed to its two ends: both nonces. If the SYN-ACK had none, the client's and both initial
    sequence numbers: those a peer can guess more easily, so then its address must be right as well."""
    cdef const hk_event *e = &f.est
    cdef bint client = e.role == HK_ROLE_CLIENT
    memcpy(f.key, &e.client_nonce, 8)
    memcpy(f.key + 8, &e.server_nonce, 8)
    if e.server_nonce == 0:
        store32(f.key + 8, (e.snd_nxt if client else e.rcv_nxt) - 1)
        store32(f.key + 12, (e.rcv_nxt if client else e.snd_nxt) - 1)
    f.locator = vtl_locator(f.key)


cdef bint flow_proven(const flow *f, vtl_stream *s, const vtl_open_info *info) noexcept nogil:
    if not vtl_prove(s, info, f.key):
        return False
    return f.est.server_nonce != 0 or memcmp(vtl_peer(vtl_stream_assoc(s)).ip, f.est.key.remote_ip, 16) == 0


cdef inline flow **locator_bucket(worker *w, uint64_t locator) noexcept nogil:
    return &w.by_locator[scattered(w, locator) & (LOCATOR_BUCKETS - 1)]


cdef void locator_add(worker *w, flow *f) noexcept nogil:
    cdef flow **b = locator_bucket(w, f.locator)
    f.locator_next = b[0]
    b[0] = f


cdef void locator_remove(worker *w, flow *f) noexcept nogil:
    cdef flow **p = locator_bucket(w, f.locator)
    while p[0] != NULL:
        if p[0] == f:
            p[0] = f.locator_next
            return
        p = &p[0].locator_next


cdef flow *flow_by_locator(worker *w, uint64_t locator) noexcept nogil:
    cdef flow *f = locator_bucket(w, locator)[0]
    while f != NULL and f.locator != locator:
        f = f.locator_next
    return f


cdef void held_add(worker *w, flow *f) noexcept nogil:
    f.in_held = True
    f.held_prev = NULL
    f.held_next = w.held
    if w.held != NULL:
        w.held.held_prev = f
    w.held = f


cdef void flow_arm(worker *w, flow *f) noexcept nogil:
    cdef uint64_t at = f.deadline if f.deadline < f.again_at else f.again_at
    at = at if at < f.look_at else f.look_at
    timer_set(&w.flow_timers, &f.due, at if at < f.orphan_at else f.orphan_at)


cdef void held_remove(worker *w, flow *f) noexcept nogil:
    if not f.in_held:
        return
    f.in_held = False
    f.deadline = f.again_at = UINT64_MAX
    flow_arm(w, f)
    if f.held_prev != NULL:
        f.held_prev.held_next = f.held_next
    else:
        w.held = f.held_next
    if f.held_next != NULL:
        f.held_next.held_prev = f.held_prev


cdef void give_slot_back(worker *w, uint64_t id) noexcept nogil:
    slot_give_back(w.free_fd, w.given_back, w.max_flows, id)


cdef void maybe_done(worker *w, flow *f) noexcept nogil:
    if not f.in_done:
        f.in_done = True
        f.done_next = w.done
        w.done = f


cdef flow *new_flow(worker *w, const hk_event *e) noexcept nogil:
    cdef flow *f
    if e.slot >= w.max_flows or w.flows[e.slot] != NULL:
        return NULL
    f = <flow *>calloc(1, sizeof(flow))
    if f == NULL:
        return NULL
    f.est = e[0]
    f.rec = &w.records[e.slot]
    f.id = e.flow_id
    f.slot = e.slot
    f.twin = -1
    f.state = HK_STATE_HELD
    f.opened_ns = w.now
    f.deadline = f.again_at = f.look_at = f.orphan_at = UINT64_MAX
    set_key(f)
    w.flows[e.slot] = f
    w.live += 1
    if e.role == HK_ROLE_SERVER:
        locator_add(w, f)
    held_add(w, f)
    tell(w, f, N_OPENED)
    return f


cdef inline bint is_over(flow *f) noexcept nogil:
    return f.app_closed and f.stream == NULL and (f.state == HK_STATE_RELEASED or f.ended)


cdef void flows_reap(worker *w) noexcept nogil:
    """Free what is over. Called between rounds, when nothing else holds a pointer."""
    cdef flow *f
    cdef flow *todo = w.done
    w.done = NULL
    while todo != NULL:
        f = todo
        todo = f.done_next
        f.in_done = False
        if not is_over(f):
            continue                    # its last event brings it here again
        if f.in_dirty or f.in_retry:
            maybe_done(w, f)
            continue
        if f.in_starving:
            continue                    # collection_feed() brings it
        timer_clear(&w.flow_timers, &f.due)
        if f.est.role == HK_ROLE_SERVER:
            locator_remove(w, f)
        backlog_drop(w, f)
        w.flows[f.slot] = NULL
        w.live -= 1
        give_slot_back(w, f.id)
        free(f)


def fill_free(int fd, uint32_t count):
    """Put the ids of all slots on the kernel's stack of free ones (generation 1). Raises OSError."""
    cdef uint32_t i
    cdef uint64_t id
    for i in range(count):
        id = (<uint64_t>1 << 32) | (count - 1 - i)
        if hk_bpf_elem(BPF_MAP_UPDATE_ELEM, fd, NULL, &id, 0) < 0:
            raise OSError(errno, "cannot fill the stack of free flow slots")
