"""What Python is shown of a worker: its flows, peers, counters and notices.

1. Under the worker's lock there is no Python: rows are copied as they are, and become objects afterwards. So nothing
   can be raised, collected or called back while the data path waits.
2. A tap or a controller, which the worker calls, has the lock already and is refused; so is a caller that has waited for it
   too long, because one of them does not return.
3. After close() there are no flows and no peers; counters and notices stay.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from hooker.flow.machine cimport ROLE_CLIENT, ST_CLOSED, ST_ENGAGED
from hooker.includes.clock cimport clock_ns
from hooker.includes.hk cimport HK_ROLE_CLIENT, HK_ROLE_SERVER, hk_key
from hooker.includes.linux cimport hk_load64, hk_store64, read
from hooker.engine.lock cimport LOCK_OWN, LOCK_TAKEN, lock_give, lock_try
from hooker.transports.contract cimport ROW_SIZE, Association, Handle, PeerAddress
from hooker.engine.flows cimport flow_key_of, flow_transport, shown_state
from hooker.engine.worker cimport *

from typing import NamedTuple

from hooker.errors import UsageError
from hooker.flow.states import Reason

cdef enum:
    SHOWN_CLOSED = 0           # beside shown_as
    SHOWN_STATES = SHOWN_RELEASED + 1
    SPARE = 64                 # flows that may come while memory for the rows is got
    PATIENCE = 10              # s

NANOSECOND = 1e-9

_ENGINES = {                    # beside the protocol's, by `why` of worker.pxd
    WHY_NO_ENGINE: "peer-without-hooker", WHY_KEY: "key-mismatch", WHY_VERSION: "no-common-version",
    WHY_MEMORY: "out-of-memory", WHY_STEERED: "route-chosen-by-application",
    WHY_HOLD: "hold-timeout", WHY_DEVICE: "device-gone", WHY_FRAMES: "protocol-error",
    WHY_LANE: "local-path-blocked", WHY_SIGNED: "tcp-signed", WHY_REPAIR: "tcp-repair",
    WHY_FUNCTION: "function-not-chosen-here",
    WHY_ADDRESS: "peer-at-another-address", WHY_ENDED: "ended-before-engaged",
    WHY_PROTOTYPE: "prototype-failed", WHY_NAME: "another-prototype",
    WHY_STOOD: "engine-stood-still",
}
_KNOWN = {                      # the protocol's that have had a name before
    Reason.NONE: "", Reason.REJECTED: "rejected-by-peer", Reason.ENGINE_STOPS: "engine-stopped",
    Reason.RESET_HERE: "reset-by-application", Reason.RESET_THERE: "reset-by-peer",
}
REASONS = (
    *(_KNOWN.get(reason, reason.name.lower().replace("_", "-")) for reason in Reason),
    *(_ENGINES.get(number, "") for number in range(len(Reason), WHYS)),
)

FLOW_SIZE = sizeof(flow)
"""Bytes that an idle flow costs the engine, besides its channel."""
ACTIVE_SIZE = sizeof(active)
"""And while it moves."""

class LaneRow(NamedTuple):
    """What the engine knows of its lane, for one IP version. `heard`: a segment of the last look came out of hk0."""

    watched: bool
    open: bool
    blocked: bool
    heard: bool
    pause: float                # s until the next try


cdef struct flow_row:
    uint64_t id, bytes_out, bytes_in, backlog, spills
    uint8_t role, state, why, transport
    bint ended
    hk_key key

cdef struct peer_row:
    PeerAddress address
    uint32_t transport         # index
    uint8_t stats[512]         # ROW_SIZE


cdef bytes ip_bytes(const uint8_t *ip):
    return (<const char *>ip)[:16]


cdef int look(worker *w) except -1:
    """Take the worker's lock, for a moment. Raises UsageError."""
    cdef int got
    with nogil:
        got = lock_try(&w.lock, PATIENCE)
    if got == LOCK_TAKEN:
        return 0
    if got == LOCK_OWN:
        raise UsageError(
            "a tap or a congestion controller runs in the worker, which cannot be asked meanwhile",
            remedy="ask in another thread",
        )
    raise UsageError(f"the worker has not answered for {PATIENCE} s: a tap or a congestion controller does not return")


# ---- flows -------------------------------------------------------------------------------------------

cdef void copy_flow(flow_row *row, const flow *f) noexcept nogil:
    row.id = f.id
    row.role = HK_ROLE_CLIENT if f.f.role == ROLE_CLIENT else HK_ROLE_SERVER
    row.state = with_transport(f)
    row.why = f.why
    row.transport = f.p.a.t.wire_id if f.p != NULL and f.p.a != NULL else flow_transport(f)
    flow_key_of(f, &row.key)
    row.bytes_out = f.bytes_out
    row.bytes_in = f.bytes_in
    row.backlog = f.channel.ops.unacked(f.channel) if f.channel != NULL else 0
    row.spills = f.r.rec.spills if f.r != NULL and f.r.rec != NULL else 0
    row.ended = f.f.state == ST_CLOSED


cdef shown_as with_transport(const flow *f) noexcept nogil:
    """Its state, its socket there or not."""
    return SHOWN_ENGAGED if f.f.state == ST_ENGAGED else shown_state(f)


cdef size_t copy_flows(worker *w, flow_row *rows, size_t room, uint32_t *by_state) noexcept nogil:
    """How many there are, and how many in each state; those beyond `room` are not copied."""
    cdef size_t n = 0
    cdef uint32_t i
    memset(by_state, 0, SHOWN_STATES * sizeof(uint32_t))
    for i in range(w.max_flows if w.flows != NULL else 0):
        if w.flows[i] == NULL:
            continue
        by_state[SHOWN_CLOSED if w.flows[i].f.state == ST_CLOSED else with_transport(w.flows[i])] += 1
        if n < room:
            copy_flow(&rows[n], w.flows[i])
        n += 1
    return n


cdef tuple flow_tuple(const flow_row *r):
    return (r.id, r.role, r.state, REASONS[r.why], ip_bytes(r.key.local_ip), r.key.local_port,
            ip_bytes(r.key.remote_ip), r.key.remote_port, r.bytes_out, r.bytes_in, r.backlog, r.spills, bool(r.ended),
            r.transport)


cdef list some_flows(worker *w, size_t room, size_t *n, uint32_t *by_state):
    cdef flow_row *rows = <flow_row *>malloc(room * sizeof(flow_row))
    cdef size_t i
    if rows == NULL:
        raise MemoryError("rows of flows")
    try:
        look(w)
        with nogil:
            n[0] = copy_flows(w, rows, room, by_state)
            lock_give(&w.lock)
        return [flow_tuple(&rows[i]) for i in range(min(n[0], room))]
    finally:
        free(rows)


cdef list view_flows(worker *w):
    cdef size_t room = <size_t>w.live + SPARE, n = 0
    cdef uint32_t by_state[SHOWN_STATES]
    rows = some_flows(w, room, &n, by_state)
    while n > room:                # they came faster than the memory for them
        room = n + room
        rows = some_flows(w, room, &n, by_state)
    return rows


cdef tuple view_table(worker *w, size_t most):
    cdef size_t n = 0
    cdef uint32_t by_state[SHOWN_STATES]
    rows = some_flows(w, min(most, <size_t>w.live + SPARE), &n, by_state)
    return {i: by_state[i] for i in range(SHOWN_STATES) if by_state[i]}, rows


# ---- peers -------------------------------------------------------------------------------------------

cdef uint32_t copy_peers(worker *w, peer_row *rows) noexcept nogil:
    cdef Association *a
    cdef uint32_t i
    for i in range(w.peer_count):
        a = w.peers[i].a
        rows[i].address = a.ops.peer(a)[0]
        rows[i].transport = a.t.index
        a.ops.stats(a, rows[i].stats)
    return w.peer_count


cdef tuple peer_tuple(const peer_row *row, list handles):
    cdef Handle handle = handles[row.transport]
    cdef dict all_have = {"transport": handle.name, "reliability": None, "datagram": None}
    return ip_bytes(row.address.ip), row.address.port, {**all_have, **handle.row(row.stats)}


cdef list view_peers(worker *w, list handles):
    cdef peer_row *rows = <peer_row *>calloc(PEERS, sizeof(peer_row))
    cdef uint32_t n, i
    if rows == NULL:
        raise MemoryError("rows of peers")
    try:
        look(w)
        with nogil:
            n = copy_peers(w, rows)
            lock_give(&w.lock)
        return [peer_tuple(&rows[i], handles) for i in range(n)]
    finally:
        free(rows)


# ---- counters ----------------------------------------------------------------------------------------

cdef dict view_counters(worker *w, list handles):
    cdef worker_counters n
    cdef Handle handle
    cdef uint32_t i
    look(w)
    with nogil:
        n = w.n
        for i in range(TRANSPORTS):
            if w.transports[i] != NULL:
                w.transports[i].ops.note(w.transports[i])
        lock_give(&w.lock)
    out = {k: v for k, v in (<dict>n).items() if k not in ("reasons", "ended")}
    out.update(
        polls_hit=w.poll.hits, polls_missed=w.poll.misses, polls_crowded=w.poll.crowded,
        flows=w.live, starting=w.starting, closed_flows=w.closed_n, slabs=w.slabs.made,
        tun_dropped=w.tun.dropped, bad_messages=0,
    )
    for handle in handles:
        out["bad_messages"] += handle.t.bad_messages
        out.update(handle.counted())
    return out


cdef dict view_reasons(worker *w):
    cdef int i
    return {REASONS[i]: w.n.reasons[i] for i in range(1, WHYS) if w.n.reasons[i]}


cdef dict view_ended(worker *w):
    cdef int i
    return {REASONS[i]: w.n.ended[i] for i in range(1, WHYS) if w.n.ended[i]}


cdef dict view_lanes(worker *w):
    """By version."""
    cdef lane both[2]
    look(w)
    with nogil:
        both = w.lanes
        lock_give(&w.lock)
    now = clock_ns()
    return {both[i].version: lane_row(&both[i], now) for i in range(2)}


cdef object lane_row(const lane *l, uint64_t now):
    waits = l.state == LANE_WAITING and l.due > now
    return LaneRow(
        bool(l.watched), l.state == LANE_OPEN or l.state == LANE_ASKED, bool(l.blocked), bool(l.heard),
        (l.due - now) * NANOSECOND if waits else 0.0,
    )


# ---- notices -----------------------------------------------------------------------------------------

cdef uint64_t woken_for(worker *w) noexcept nogil:
    """The wake-up first, then what there is: what comes in between wakes us again."""
    cdef uint64_t junk
    read(w.notice_fd, &junk, sizeof(junk))
    return hk_load64(&w.notice_head)


cdef size_t take_notices(worker *w, uint64_t head, notice *rows, size_t most) noexcept nogil:
    """Up to `head`, the last `most`; the others are dropped."""
    cdef uint64_t at = w.notice_tail
    cdef size_t n = 0
    if head - at > most:
        at = head - most
    while at != head:
        rows[n] = w.notices[at & (NOTICES - 1)]
        n += 1
        at += 1
    hk_store64(&w.notice_tail, head)
    return n


cdef str reason_of(const notice *n, list handles):
    cdef Handle handle
    if n.kind != N_TRANSPORT_FAILED:
        return REASONS[n.why]
    handle = handles[n.state]
    return handle.failure()


cdef tuple notice_tuple(const notice *n, list handles):
    return (n.kind, reason_of(n, handles), n.role, n.state, n.flow_id, ip_bytes(n.key.local_ip), n.key.local_port,
            ip_bytes(n.key.remote_ip), n.key.remote_port, n.bytes_out, n.bytes_in, n.at_ns * NANOSECOND,
            n.waited_ns * NANOSECOND)


cdef list view_notices(worker *w, size_t most, list handles):
    """No lock but the GIL: the ring has one reader at a time, and the worker adds to it meanwhile."""
    cdef uint64_t head = woken_for(w)
    cdef size_t room = min(<size_t>(head - w.notice_tail), most), n, i
    cdef notice *rows = <notice *>malloc((room + 1) * sizeof(notice))
    if rows == NULL:
        raise MemoryError("rows of notices")
    try:
        n = take_notices(w, head, rows, room)
        return [notice_tuple(&rows[i], handles) for i in range(n)]
    finally:
        free(rows)
