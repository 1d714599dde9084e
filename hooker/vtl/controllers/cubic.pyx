"""``cubic``: RFC 9438, with HyStart++ (RFC 9406) for its slow start."""

from libc.math cimport cbrt
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memset
from hooker.vtl.controllers.interface cimport (
    MIN_PACKETS, Congestion, CongestionAck, congestion_collapse, congestion_fill, congestion_ops,
)

cdef enum:
    MIN_RTT_THRESH = 4000000            # ns, RFC 9406 4.3
    MAX_RTT_THRESH = 16000000           # ns, RFC 9406 4.3
    N_RTT_SAMPLE = 8                    # RFC 9406 4.3
    CSS_GROWTH_DIVISOR = 4              # RFC 9406 4.3
    CSS_ROUNDS = 5                      # RFC 9406 4.3

cdef double BETA = 0.7                  # RFC 9438 4.6
cdef double C = 0.4                     # RFC 9438 4.1, segments/s^3
cdef double ALPHA = 3 * (1 - 0.7) / (1 + 0.7)   # RFC 9438 4.3


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


cdef void cubic_on_resize(Congestion *c, uint64_t before) noexcept nogil:
    cdef Cubic *q = <Cubic *>c.w.state
    q.w_max *= <double>before / <double>c.mss
    q.epoch = 0


cdef void cubic_on_persistent(Congestion *c) noexcept nogil:
    (<Cubic *>c.w.state).epoch = 0
    congestion_collapse(c)


cdef congestion_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.init = cubic_init
OPS.on_ack = cubic_on_ack
OPS.on_loss = cubic_on_loss
OPS.on_persistent = cubic_on_persistent
OPS.on_resize = cubic_on_resize
congestion_fill(&OPS, b"cubic")
