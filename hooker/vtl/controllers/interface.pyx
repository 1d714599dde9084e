"""What all congestion controllers share: the registry, and when a loss is a congestion event.

A controller is a table of functions. One by *window* (``newreno``, ``cubic``) keeps its state in
``Congestion.w``, does not see the ACKs of packets sent before the last congestion event, and is put back
when an event proves spurious. One by *model* (``bbr``) keeps it in ``Congestion.model`` and sees all. Both
see one call per ACK, not per packet.
"""

from libc.stdint cimport UINT64_MAX
from libc.string cimport memset, strncmp

cdef enum:
    INITIAL_PACKETS = 10                # RFC 9002 7.2

cdef const congestion_ops *controllers[MAX_CONTROLLERS]
cdef int controller_count = 0


cdef const congestion_ops *congestion_find(const char *name) noexcept nogil:
    for i in range(controller_count):
        if strncmp(controllers[i].name, name, sizeof(controllers[i].name)) == 0:
            return controllers[i]
    return NULL


cdef int congestion_register(const congestion_ops *ops) noexcept nogil:
    global controller_count
    if controller_count == MAX_CONTROLLERS:
        return -1
    controllers[controller_count] = ops
    controller_count += 1
    return 0


cdef void congestion_unregister(const congestion_ops *ops) noexcept nogil:
    global controller_count
    cdef int i, kept = 0
    for i in range(controller_count):
        if controllers[i] != ops:
            controllers[kept] = controllers[i]
            kept += 1
    controller_count = kept


cdef int congestion_fill(congestion_ops *ops, bytes name) except -1:
    cdef int i
    if not 0 < len(name) < sizeof(ops.name):
        raise ValueError(f"a controller's name has 1 to {sizeof(ops.name) - 1} letters, not {len(name)}")
    if congestion_find(name) != NULL:
        raise ValueError(f"there is a congestion controller {name.decode()!r} already")
    memset(ops.name, 0, sizeof(ops.name))
    for i in range(len(name)):
        ops.name[i] = name[i]
    if congestion_register(ops) < 0:
        raise ValueError(f"no room for more than {MAX_CONTROLLERS} congestion controllers")
    return 0


cdef void congestion_init(Congestion *c, const congestion_ops *ops, uint64_t mss) noexcept nogil:
    memset(c, 0, sizeof(Congestion))
    c.mss = mss
    congestion_use(c, ops)


cdef void congestion_use(Congestion *c, const congestion_ops *ops) noexcept nogil:
    c.ops = ops
    c.w.cwnd = INITIAL_PACKETS * c.mss
    c.w.ssthresh = UINT64_MAX
    ops.init(c)


cdef void congestion_resize(Congestion *c, uint64_t mss) noexcept nogil:
    """Full datagrams have another size; the window has room for the least number of them (RFC 9002 7.2)."""
    cdef uint64_t before = c.mss
    if mss == before:
        return
    c.mss = mss
    c.event_lost = 0                            # the window before counted in other units
    if c.ops.on_resize != NULL:
        c.ops.on_resize(c, before)
    c.w.cwnd = max(c.w.cwnd, MIN_PACKETS * mss)


cdef void congestion_free(Congestion *c) noexcept nogil:
    if c.ops != NULL and c.ops.release != NULL:
        c.ops.release(c)


cdef void congestion_on_ack(Congestion *c, CongestionAck *a) noexcept nogil:
    a.lost = c.lost
    c.lost = 0
    if c.ops.model:
        c.ops.on_ack(c, a)
        return
    if a.marked > 0:                    # RFC 9002 7.1
        congestion_on_loss(c, 0, a.sent_at, a.now, False)
        c.event_lost = 0                # a mark is never spurious
    if a.sent_at > c.recovery_start or c.recovery_start == 0:
        c.ops.on_ack(c, a)


cdef void congestion_on_packet_lost(Congestion *c, const CongestionLoss *l) noexcept nogil:
    c.lost += l.bytes
    if c.ops.on_packet_lost != NULL:
        c.ops.on_packet_lost(c, l)


cdef void congestion_on_loss(Congestion *c, uint32_t packets, uint64_t sent_at, uint64_t now,
                             bint persistent) noexcept nogil:
    if sent_at > c.recovery_start or c.recovery_start == 0:
        c.recovery_start = now
        c.before = c.w
        c.event_lost = packets
        c.ops.on_loss(c, now)
    elif c.event_lost > 0:
        c.event_lost += packets
    if persistent:
        c.recovery_start = 0
        c.event_lost = 0
        c.ops.on_persistent(c)


cdef void congestion_on_spurious(Congestion *c, uint32_t packets) noexcept nogil:
    """RFC 9438 4.9: an event whose losses were all spurious is taken back."""
    if c.ops.on_spurious != NULL:
        c.ops.on_spurious(c, packets)
    if c.event_lost == 0:
        return
    c.event_lost -= min(c.event_lost, packets)
    if c.event_lost == 0 and not c.ops.model and c.w.cwnd < c.before.cwnd:
        c.w = c.before
        c.recovery_start = 0


cdef void congestion_collapse(Congestion *c) noexcept nogil:
    c.w.cwnd = MIN_PACKETS * c.mss


def names() -> list[str]:
    """The registered controllers."""
    return [controllers[i].name.decode() for i in range(controller_count)]
