"""Congestion controllers: ``newreno`` (RFC 9002 7), ``cubic`` (RFC 9438, HyStart++ RFC 9406), ``fixed``.

A controller is a table of functions over the 128 bytes of ``Congestion.state``. It sees one call
per ACK, not per packet.
"""

from libc.math cimport cbrt
from libc.stdint cimport UINT64_MAX
from libc.string cimport memset, strncmp

cdef enum:
    INITIAL_PACKETS = 10                # RFC 9002 7.2
    MIN_PACKETS = 2                     # RFC 9002 7.2
    FIXED_WINDOW = 16 << 20             # bytes; enough for 10 Gbit/s over 13 ms
    MIN_RTT_THRESH = 4000000            # ns, RFC 9406 4.3
    MAX_RTT_THRESH = 16000000           # ns, RFC 9406 4.3
    N_RTT_SAMPLE = 8                    # RFC 9406 4.3
    CSS_GROWTH_DIVISOR = 4              # RFC 9406 4.3
    CSS_ROUNDS = 5                      # RFC 9406 4.3

cdef double BETA = 0.7                  # RFC 9438 4.6
cdef double C = 0.4                     # RFC 9438 4.1, segments/s^3
cdef double ALPHA = 3 * (1 - 0.7) / (1 + 0.7)   # RFC 9438 4.3

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


cdef int congestion_init(Congestion *c, const char *name, uint64_t mss) noexcept nogil:
    cdef const congestion_ops *ops = congestion_find(name)
    if ops == NULL:
        return -1
    memset(c, 0, sizeof(Congestion))
    c.ops = ops
    c.mss = mss
    c.w.cwnd = INITIAL_PACKETS * mss
    c.w.ssthresh = UINT64_MAX
    ops.init(c)
    return 0


cdef void congestion_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    if a.sent_at > c.recovery_start or c.recovery_start == 0:
        c.ops.on_ack(c, a)


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
    if c.event_lost == 0:
        return
    c.event_lost -= min(c.event_lost, packets)
    if c.event_lost == 0 and c.w.cwnd < c.before.cwnd:
        c.w = c.before
        c.recovery_start = 0


cdef void collapse(Congestion *c) noexcept nogil:
    c.w.cwnd = MIN_PACKETS * c.mss


# fixed: a window that does not move; for tests and for paths whose capacity is known

cdef void fixed_init(Congestion *c) noexcept nogil:
    c.w.cwnd = FIXED_WINDOW

cdef void fixed_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    pass

cdef void fixed_on_loss(Congestion *c, uint64_t now) noexcept nogil:
    pass

cdef void fixed_on_persistent(Congestion *c) noexcept nogil:
    pass


# newreno: RFC 9002 7.3 and appendix B

cdef void newreno_init(Congestion *c) noexcept nogil:
    pass

cdef void newreno_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    if a.limited:
        return
    if c.w.cwnd < c.w.ssthresh:
        c.w.cwnd += a.bytes
    else:
        c.w.cwnd += max(c.mss * a.bytes // c.w.cwnd, 1)

cdef void newreno_on_loss(Congestion *c, uint64_t now) noexcept nogil:
    c.w.ssthresh = c.w.cwnd = max(c.w.cwnd // 2, MIN_PACKETS * c.mss)


# cubic

cdef struct Cubic:
    double w_max               # segments
    double w_est               # segments, what Reno would have
    double k                   # s
    double cwnd_epoch          # segments, at the epoch's start
    uint64_t epoch             # ns, 0: none
    uint64_t round_start       # ns; HyStart++ from here on
    uint64_t round_min, last_round_min, css_baseline   # ns
    uint32_t samples
    uint32_t css_rounds        # 0: not in conservative slow start


cdef void cubic_init(Congestion *c) noexcept nogil:
    cdef Cubic *q = <Cubic *>c.w.state
    q.last_round_min = q.round_min = UINT64_MAX


cdef void hystart_new_round(Congestion *c, Cubic *q, uint64_t now) noexcept nogil:
    q.round_start = now
    q.last_round_min = q.round_min
    q.round_min = UINT64_MAX
    q.samples = 0
    if q.css_rounds > 0:
        q.css_rounds += 1
        if q.css_rounds > CSS_ROUNDS:
            c.w.ssthresh = c.w.cwnd


cdef void hystart_sample(Congestion *c, Cubic *q, const CongestionAck *a) noexcept nogil:
    """RFC 9406 4.2: leaves slow start when the RTT of a round grows."""
    cdef uint64_t thresh
    if a.sent_at >= q.round_start:
        hystart_new_round(c, q, a.now)
    q.round_min = min(q.round_min, a.latest_rtt)
    q.samples += 1
    if q.samples < N_RTT_SAMPLE or q.last_round_min == UINT64_MAX:
        return
    if q.css_rounds == 0:
        thresh = min(max(q.last_round_min // 8, MIN_RTT_THRESH), MAX_RTT_THRESH)
        if q.round_min >= q.last_round_min + thresh:
            q.css_baseline = q.round_min
            q.css_rounds = 1
    elif q.round_min < q.css_baseline:
        q.css_rounds = 0


cdef void cubic_start_epoch(Congestion *c, Cubic *q, uint64_t now) noexcept nogil:
    cdef double w = <double>c.w.cwnd / <double>c.mss
    q.epoch = now
    q.w_est = q.cwnd_epoch = w
    if w < q.w_max:
        q.k = cbrt((q.w_max - w) / C)
    else:
        q.k = 0
        q.w_max = w


cdef void cubic_avoid(Congestion *c, Cubic *q, const CongestionAck *a) noexcept nogil:
    cdef double w = <double>c.w.cwnd / <double>c.mss, acked = <double>a.bytes / <double>c.mss, t, target
    if q.epoch == 0:
        cubic_start_epoch(c, q, a.now)
    t = <double>(a.now - q.epoch) / 1e9
    q.w_est += (ALPHA if q.w_est < q.w_max else 1.0) * acked / w
    target = C * (t - q.k) ** 3 + q.w_max
    if target < q.w_est:
        w = max(w, q.w_est)                                             # RFC 9438 4.3
    else:
        t += <double>a.srtt / 1e9
        target = min(max(C * (t - q.k) ** 3 + q.w_max, w), 1.5 * w)     # RFC 9438 4.2
        w += (target - w) / w * acked
    c.w.cwnd = <uint64_t>(w * <double>c.mss)


cdef void cubic_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    cdef Cubic *q = <Cubic *>c.w.state
    if c.w.cwnd < c.w.ssthresh:
        hystart_sample(c, q, a)
        if not a.limited:
            c.w.cwnd += a.bytes // CSS_GROWTH_DIVISOR if q.css_rounds > 0 else a.bytes
    elif a.limited:
        q.epoch = 0                                                     # RFC 9438 5.8: idle time is no growth
    else:
        cubic_avoid(c, q, a)


cdef void cubic_on_loss(Congestion *c, uint64_t now) noexcept nogil:
    cdef Cubic *q = <Cubic *>c.w.state
    cdef double w = <double>c.w.cwnd / <double>c.mss
    q.w_max = w * (1 + BETA) / 2 if w < q.w_max else w                  # RFC 9438 4.7
    c.w.ssthresh = c.w.cwnd = max(<uint64_t>(<double>c.w.cwnd * BETA), MIN_PACKETS * c.mss)
    q.epoch = 0


cdef void cubic_on_persistent(Congestion *c) noexcept nogil:
    (<Cubic *>c.w.state).epoch = 0
    collapse(c)


cdef congestion_ops FIXED
cdef congestion_ops NEWRENO
cdef congestion_ops CUBIC


cdef void fill(congestion_ops *o, bytes name) except *:
    cdef int i
    memset(o.name, 0, sizeof(o.name))
    for i in range(len(name)):
        o.name[i] = name[i]
    congestion_register(o)


def names() -> list[str]:
    """The registered controllers."""
    return [controllers[i].name.decode() for i in range(controller_count)]


FIXED.init = fixed_init
FIXED.on_ack = fixed_on_ack
FIXED.on_loss = fixed_on_loss
FIXED.on_persistent = fixed_on_persistent
NEWRENO.init = newreno_init
NEWRENO.on_ack = newreno_on_ack
NEWRENO.on_loss = newreno_on_loss
NEWRENO.on_persistent = collapse
CUBIC.init = cubic_init
CUBIC.on_ack = cubic_on_ack
CUBIC.on_loss = cubic_on_loss
CUBIC.on_persistent = cubic_on_persistent
fill(&FIXED, b"fixed")
fill(&NEWRENO, b"newreno")
fill(&CUBIC, b"cubic")
