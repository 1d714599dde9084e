"""``bbr``: the model of BBR version 3 (draft-ietf-ccwg-bbr), with two differences: what a loss means, what ends STARTUP.

1. The model is the path's bandwidth (the largest delivery rate of the last two probing cycles) and its
   round-trip time (the least of the last 10 s). Sending is paced at a gain times the bandwidth and bounded
   to a gain times their product.
2. STARTUP doubles each round until the rate stops growing, DRAIN empties the queue that made. PROBE_BW then
   goes in circles: DOWN (leave room), CRUISE (at the estimate), REFILL (fill the pipe), UP (is there more?).
   PROBE_RTT halves what is in flight for 200 ms when no least round-trip time was seen for 5 s.
3. What congestion teaches is kept in upper bounds (``inflight_hi``, from probing) and lower bounds
   (``bw_lo``, ``inflight_lo``, forgotten at the next REFILL).
4. The first difference: the draft takes a loss rate above 2 % for congestion, and any loss while it does not probe.
   On a path that loses packets whatever is sent, it would give most of it away. Here the loss of rounds in
   which no queue stood is the path's *floor*: loss is congestion when it is more above the floor than chance explains
   and 2 %, or 0.5 % while a queue stands. A mark (ECN) is congestion, as it is for a controller by window.
5. The second one: the draft does not let samples of a sender that had nothing more to send end STARTUP. One that a
   window stops in each round trip would stay there, and keep twice what the path holds in flight. Here such a sample
   counts if its flight was sent faster than it arrived, and at no less than nine tenths of the bandwidth.
"""

from libc.math cimport sqrt
from libc.stdint cimport UINT64_MAX, uint32_t, uint64_t
from libc.string cimport memset
from hooker.vtl.controllers.interface cimport (
    MODEL_WORDS, Congestion, CongestionAck, CongestionLoss, congestion_fill, congestion_ops,
)

cdef enum bbr_state:
    STARTUP = 0
    DRAIN = 1
    DOWN = 2
    CRUISE = 3
    REFILL = 4
    UP = 5
    PROBE_RTT = 6

cdef enum bbr_ack_phase:            # what the ACKs that come now are about
    ACKS_INIT = 0
    ACKS_STARTING = 1               # REFILL or UP has begun, nothing sent in it is acknowledged yet
    ACKS_FEEDBACK = 2               # packets sent in UP
    ACKS_STOPPING = 3               # the last of them

cdef enum:
    MIN_RTT_FILTER = 10000000000    # ns
    PROBE_RTT_INTERVAL = 5000000000 # ns
    PROBE_RTT_DURATION = 200000000  # ns
    EXTRA_ACKED_ROUNDS = 5          # of each of two slots
    FULL_BW_ROUNDS = 3
    MIN_PIPE_PACKETS = 4
    MAX_ROUNDS_BETWEEN_PROBES = 63  # so as not to starve beside Reno and CUBIC
    PROBE_WAIT = 2000000000         # ns, and up to a second more
    FULL_LOSSES = 6                 # packets of a round, to end STARTUP for loss
    QUEUE_RTT = 1000000             # ns above the least: a queue stands, if that is more than 1/8 of it
    FLOOR_MEMORY = 2000             # packets over which the floor is averaged

cdef double STARTUP_GAIN = 2.77
cdef double DRAIN_GAIN = 0.5
cdef double DOWN_GAIN = 0.9
cdef double UP_GAIN = 1.25
cdef double CWND_GAIN = 2.0
cdef double UP_CWND_GAIN = 2.25
cdef double PROBE_RTT_GAIN = 0.5
cdef double MARGIN = 0.995          # paced below the estimate, to keep the queue short
cdef double BETA = 0.7
cdef double HEADROOM = 0.15
cdef double FULL_BW_GROWTH = 1.25
cdef double PATH_LIMITED = 0.9
cdef double LOSS_LIMIT = 0.02       # above the floor: congestion
cdef double QUEUE_LOSS_LIMIT = 0.005   # the same, while a queue stands
cdef double SCATTER = 3.0           # standard deviations of a number of losses
cdef double STARTUP_LOSS_LIMIT = 0.2   # without a queue: a policer, or a very short buffer
cdef double MAX_FLOOR = 0.1


cdef struct Bbr:
    uint32_t state                  # bbr_state
    uint32_t ack_phase              # bbr_ack_phase
    bint full_bw                    # the pipe was full once: STARTUP is over
    bint startup_lossy              # it was losses that ended it
    bint probing_samples            # inflight_hi may be lowered by what is lost now
    bint round_start, loss_round_start
    bint idle_restart
    bint congested                  # the verdict on the last round
    uint64_t now                    # of the ACK at hand, ns
    uint64_t next_round, next_loss_round   # delivered
    uint64_t rounds, rounds_since_probe
    # bandwidth, bytes/s
    uint64_t max_bw, bw_slot[2], bw_latest, bw_lo, bw
    uint64_t full_bw_rate
    uint32_t full_bw_count
    bint path_limited               # of the round at hand: something in it was faster than the path
    # in flight, bytes
    uint64_t inflight_latest, inflight_lo, inflight_hi
    uint64_t up_count, up_acked, up_rounds   # raising inflight_hi
    uint64_t prior_cwnd
    # round-trip time, ns
    uint64_t min_rtt, min_rtt_at, probe_rtt_min, probe_rtt_min_at
    uint64_t probe_rtt_done
    bint probe_rtt_round_done
    # the cycle
    uint64_t cycle_at, probe_wait   # ns
    uint64_t luck
    # the round at hand
    uint64_t round_lost, round_acked, round_marked   # bytes, bytes, packets
    uint64_t round_rtt              # least of the round, ns
    uint32_t round_losses           # packets
    uint64_t floor_lost, floor_sent # bytes, aging
    # ACK aggregation, bytes
    uint64_t extra_since, extra_delivered, extra_slot[2], extra_rounds
    uint64_t undo_bw_lo, undo_lo, undo_hi


cdef inline Bbr *model(Congestion *c) noexcept nogil:
    return <Bbr *>c.model


cdef inline bint probing_bw(const Bbr *q) noexcept nogil:
    return DOWN <= q.state <= UP


# --- what the model says

cdef inline uint64_t bdp(const Bbr *q, uint64_t bw, double gain) noexcept nogil:
    """Bytes; as good as infinite before the first round-trip time."""
    if q.min_rtt == UINT64_MAX or bw == 0:
        return UINT64_MAX >> 8
    return <uint64_t>(gain * <double>bw * <double>q.min_rtt / 1e9)


cdef inline uint64_t target(const Congestion *c, const Bbr *q, double gain) noexcept nogil:
    """What to have in flight at a gain: with room for bursts of a few packets."""
    return max(bdp(q, q.bw, gain) + 2 * c.mss, MIN_PIPE_PACKETS * c.mss)


cdef inline uint64_t extra_acked(const Bbr *q) noexcept nogil:
    return max(q.extra_slot[0], q.extra_slot[1])


cdef inline uint64_t with_headroom(const Congestion *c, const Bbr *q) noexcept nogil:
    if q.inflight_hi == UINT64_MAX:
        return UINT64_MAX
    return max(q.inflight_hi - max(<uint64_t>(HEADROOM * <double>q.inflight_hi), c.mss), MIN_PIPE_PACKETS * c.mss)


cdef inline double floor_rate(const Bbr *q) noexcept nogil:
    if q.floor_sent == 0:
        return 0
    return min(<double>q.floor_lost / <double>q.floor_sent, MAX_FLOOR)


# --- bandwidth and round-trip time

cdef void update_max_bw(Bbr *q, const CongestionAck *a) noexcept nogil:
    if a.rate >= q.max_bw or not a.app_limited:
        q.bw_slot[1] = max(q.bw_slot[1], a.rate)
        q.max_bw = max(q.bw_slot[0], q.bw_slot[1])


cdef void next_bw_slot(Bbr *q) noexcept nogil:
    if q.bw_slot[1] > 0:
        q.bw_slot[0] = q.bw_slot[1]
        q.bw_slot[1] = 0
        q.max_bw = q.bw_slot[0]


cdef void update_aggregation(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    """How many bytes more than the bandwidth explains an ACK may bring."""
    cdef uint64_t expected = <uint64_t>(<double>q.bw * <double>(a.now - q.extra_since) / 1e9), extra
    if q.round_start:
        q.extra_rounds += 1
        if q.extra_rounds >= EXTRA_ACKED_ROUNDS:
            q.extra_rounds = 0
            q.extra_slot[0] = q.extra_slot[1]
            q.extra_slot[1] = 0
    if q.extra_delivered <= expected:
        q.extra_delivered = expected = 0
        q.extra_since = a.now
    q.extra_delivered += a.bytes
    extra = min(q.extra_delivered - expected, c.w.cwnd)
    if q.full_bw:
        q.extra_slot[1] = max(q.extra_slot[1], extra)


cdef void update_min_rtt(Bbr *q, const CongestionAck *a) noexcept nogil:
    """A sample within 1/32 of the least shows that it still holds."""
    if not a.rtt_sample:
        return
    if a.latest_rtt <= q.probe_rtt_min + q.probe_rtt_min // 32:
        q.probe_rtt_min = min(q.probe_rtt_min, a.latest_rtt)
        q.probe_rtt_min_at = a.now
    elif a.now - q.probe_rtt_min_at > PROBE_RTT_INTERVAL and q.state == PROBE_RTT:
        q.probe_rtt_min = a.latest_rtt
        q.probe_rtt_min_at = a.now
    if a.latest_rtt <= q.min_rtt or a.now - q.min_rtt_at > MIN_RTT_FILTER:
        q.min_rtt = a.latest_rtt
        q.min_rtt_at = a.now
    elif a.latest_rtt <= q.min_rtt + q.min_rtt // 32:
        q.min_rtt_at = a.now


# --- congestion

cdef inline double by_chance(const Congestion *c, double mean) noexcept nogil:
    """Bytes lost where `mean` are to be expected, and packets are lost each by itself."""
    return mean + SCATTER * sqrt(mean * <double>c.mss)


cdef double explained(const Congestion *c, const Bbr *q, double of, double margin) noexcept nogil:
    """Bytes out of `of` that may be lost before it is more than the floor, its scatter, and a margin."""
    return by_chance(c, floor_rate(q) * of) + margin * of


cdef bint too_much_loss(const Congestion *c, const Bbr *q, uint64_t lost, uint64_t of) noexcept nogil:
    return lost >= 3 * c.mss and <double>lost > explained(c, q, <double>of, LOSS_LIMIT)


cdef bint queue_stands(const Bbr *q) noexcept nogil:
    """In no moment of the round was the queue (nearly) empty."""
    return q.round_rtt != UINT64_MAX and q.round_rtt > q.min_rtt + max(q.min_rtt // 8, <uint64_t>QUEUE_RTT)


cdef void learn_floor(Congestion *c, Bbr *q) noexcept nogil:
    q.floor_lost += q.round_lost
    q.floor_sent += q.round_lost + q.round_acked
    if q.floor_sent > FLOOR_MEMORY * c.mss:
        q.floor_lost //= 2
        q.floor_sent //= 2


cdef void judge_round(Congestion *c, Bbr *q) noexcept nogil:
    cdef uint64_t total = q.round_lost + q.round_acked
    cdef bint queued = queue_stands(q), excess = too_much_loss(c, q, q.round_lost, total)
    cdef double rate = <double>q.round_lost / <double>total if total > 0 else 0
    q.congested = q.round_marked > 0
    if q.state == STARTUP:
        if q.round_losses >= FULL_LOSSES and (
                (queued and excess) or <double>q.round_lost > by_chance(c, STARTUP_LOSS_LIMIT * <double>total)):
            q.congested = True
    elif excess or (queued and <double>q.round_lost > explained(c, q, <double>total, QUEUE_LOSS_LIMIT)):
        q.congested = True
    if queued or q.state == UP or q.round_marked > 0 or rate > STARTUP_LOSS_LIMIT:
        return
    # what is lost without a queue is not for us to heal, unless less is lost at a lower rate
    if not excess or q.state == STARTUP or <double>q.bw_lo < 0.9 * <double>q.max_bw:
        learn_floor(c, q)


cdef void adapt_lower_bounds(Congestion *c, Bbr *q) noexcept nogil:
    if not q.congested or q.state == STARTUP or q.state == REFILL or q.state == UP:
        return
    if q.bw_lo == UINT64_MAX:
        q.bw_lo = q.max_bw
    if q.inflight_lo == UINT64_MAX:
        q.inflight_lo = c.w.cwnd
    q.bw_lo = max(q.bw_latest, <uint64_t>(BETA * <double>q.bw_lo))
    q.inflight_lo = max(q.inflight_latest, <uint64_t>(BETA * <double>q.inflight_lo))


cdef void forget_lower_bounds(Bbr *q) noexcept nogil:
    q.bw_lo = q.inflight_lo = UINT64_MAX


cdef void end_loss_round(Congestion *c, Bbr *q) noexcept nogil:
    judge_round(c, q)
    adapt_lower_bounds(c, q)
    q.round_lost = q.round_acked = q.round_marked = q.round_losses = 0
    q.round_rtt = UINT64_MAX


cdef void note_round(Bbr *q, const CongestionAck *a) noexcept nogil:
    q.round_start = a.prior_delivered >= q.next_round
    if q.round_start:
        q.next_round = a.delivered
        q.rounds += 1
        q.rounds_since_probe += 1
    q.loss_round_start = a.prior_delivered >= q.next_loss_round
    if q.loss_round_start:
        q.next_loss_round = a.delivered
    q.bw_latest = max(q.bw_latest, a.rate)
    q.inflight_latest = max(q.inflight_latest, a.sampled)
    q.round_acked += a.bytes
    q.round_marked += a.marked
    if a.rtt_sample:
        q.round_rtt = min(q.round_rtt, a.latest_rtt)


cdef void start_round(Bbr *q, uint64_t delivered) noexcept nogil:
    q.next_round = delivered


# --- STARTUP and DRAIN

cdef void forget_full_bw(Bbr *q) noexcept nogil:
    q.full_bw_rate = q.full_bw_count = 0
    q.path_limited = False


cdef void check_full_bw(Bbr *q, const CongestionAck *a) noexcept nogil:
    if q.full_bw or a.rate == 0:
        return
    if a.outran and <double>a.rate >= PATH_LIMITED * <double>q.max_bw:
        q.path_limited = True
    if a.app_limited and not q.path_limited:
        return
    if <double>a.rate >= FULL_BW_GROWTH * <double>q.full_bw_rate:
        forget_full_bw(q)
        q.full_bw_rate = a.rate
    elif q.round_start:
        q.full_bw_count += 1
        q.full_bw = q.full_bw_count >= FULL_BW_ROUNDS
        q.path_limited = False


cdef void check_startup(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    if q.state == STARTUP:
        if q.loss_round_start and q.congested and not q.full_bw:
            q.full_bw = q.startup_lossy = True
            q.inflight_hi = max(bdp(q, q.max_bw, 1.0), q.inflight_latest)
        if q.full_bw:
            q.state = DRAIN
    if q.state == DRAIN and a.in_flight <= target(c, q, 1.0):
        enter_down(c, q, a)


# --- PROBE_BW

cdef void enter_down(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    q.state = DOWN
    q.ack_phase = ACKS_STOPPING
    q.up_count = UINT64_MAX
    q.luck = q.luck * <uint64_t>6364136223846793005 + a.now + 1
    q.probe_wait = PROBE_WAIT + (q.luck >> 34)          # up to 2^30 ns more
    q.rounds_since_probe = (q.luck >> 33) & 1
    q.cycle_at = a.now
    start_round(q, a.delivered)


cdef void enter_refill(Bbr *q, const CongestionAck *a) noexcept nogil:
    forget_lower_bounds(q)
    q.state = REFILL
    q.up_rounds = q.up_acked = 0
    q.ack_phase = ACKS_STARTING
    start_round(q, a.delivered)


cdef void raise_slope(Congestion *c, Bbr *q) noexcept nogil:
    """inflight_hi grows by 1, 2, 4 … packets a round."""
    cdef uint64_t growth = c.mss << min(q.up_rounds, 30)
    q.up_rounds = min(q.up_rounds + 1, 30)
    q.up_count = max(c.w.cwnd * c.mss // growth, 1)


cdef void enter_up(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    q.state = UP
    q.ack_phase = ACKS_STARTING
    q.probing_samples = True
    q.cycle_at = a.now
    start_round(q, a.delivered)
    raise_slope(c, q)


cdef bint time_to_probe(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    cdef uint64_t packets = target(c, q, 1.0) // c.mss
    return (a.now - q.cycle_at > q.probe_wait
            or q.rounds_since_probe >= min(packets, <uint64_t>MAX_ROUNDS_BETWEEN_PROBES))


cdef bint drained(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    return a.in_flight <= with_headroom(c, q) and a.in_flight <= target(c, q, 1.0)


cdef void raise_inflight_hi(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    if a.limited or c.w.cwnd < q.inflight_hi:
        return
    q.up_acked += a.bytes
    if q.up_acked >= q.up_count:
        q.inflight_hi += q.up_acked // q.up_count * c.mss
        q.up_acked %= q.up_count
    if q.round_start:
        raise_slope(c, q)


cdef void lower_inflight_hi(Congestion *c, Bbr *q, uint64_t in_flight, bint app_limited) noexcept nogil:
    q.probing_samples = False
    if not app_limited:
        q.inflight_hi = max(in_flight, <uint64_t>(BETA * <double>min(bdp(q, q.bw, 1.0), c.w.cwnd)))


cdef void adapt_upper_bounds(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    if q.ack_phase == ACKS_STARTING and q.round_start and q.state == UP:
        q.ack_phase = ACKS_FEEDBACK
    if q.ack_phase == ACKS_STOPPING and q.round_start:
        q.probing_samples = False
        q.ack_phase = ACKS_INIT
        if probing_bw(q) and not a.app_limited:
            next_bw_slot(q)
    if q.probing_samples and (too_much_loss(c, q, a.lost_since, a.tx_in_flight) or a.marked > 0):
        lower_inflight_hi(c, q, a.tx_in_flight, a.app_limited)
        if q.state == UP:
            enter_down(c, q, a)
        return
    if q.inflight_hi == UINT64_MAX:
        return
    q.inflight_hi = max(q.inflight_hi, a.tx_in_flight if a.lost_since == 0 else 0)
    if q.state == UP:
        raise_inflight_hi(c, q, a)


cdef void update_cycle(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    if not q.full_bw:
        return
    adapt_upper_bounds(c, q, a)
    if q.state == DOWN or q.state == CRUISE:
        if time_to_probe(c, q, a):
            enter_refill(q, a)
        elif q.state == DOWN and drained(c, q, a):
            q.state = CRUISE
    elif q.state == REFILL:
        if q.round_start:
            enter_up(c, q, a)
    elif q.state == UP and a.now - q.cycle_at > q.min_rtt and a.in_flight > target(c, q, UP_GAIN):
        enter_down(c, q, a)


# --- PROBE_RTT

cdef void leave_probe_rtt(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    q.probe_rtt_min_at = a.now
    c.w.cwnd = max(c.w.cwnd, q.prior_cwnd)
    forget_lower_bounds(q)
    if q.full_bw:
        enter_down(c, q, a)
        q.state = CRUISE
    else:
        q.state = STARTUP


cdef void check_probe_rtt(Congestion *c, Bbr *q, const CongestionAck *a, bint stale) noexcept nogil:
    if q.state != PROBE_RTT and stale and not q.idle_restart:
        q.prior_cwnd = c.w.cwnd
        q.state = PROBE_RTT
        q.probe_rtt_done = 0
        q.ack_phase = ACKS_STOPPING
        start_round(q, a.delivered)
    if q.state == PROBE_RTT:
        if q.probe_rtt_done == 0:
            if a.in_flight <= probe_rtt_window(c, q):
                q.probe_rtt_done = a.now + PROBE_RTT_DURATION
                q.probe_rtt_round_done = False
                start_round(q, a.delivered)
        else:
            q.probe_rtt_round_done = q.probe_rtt_round_done or q.round_start
            if q.probe_rtt_round_done and a.now > q.probe_rtt_done:
                leave_probe_rtt(c, q, a)
    if a.bytes > 0:
        q.idle_restart = False


cdef inline uint64_t probe_rtt_window(const Congestion *c, const Bbr *q) noexcept nogil:
    return max(bdp(q, q.bw, PROBE_RTT_GAIN), MIN_PIPE_PACKETS * c.mss)


# --- what follows from the model

cdef double pacing_gain(const Bbr *q) noexcept nogil:
    if q.state == STARTUP:
        return STARTUP_GAIN
    if q.state == DRAIN:
        return DRAIN_GAIN
    if q.state == DOWN:
        return DOWN_GAIN
    return UP_GAIN if q.state == UP else 1.0


cdef inline double to_fill(const Bbr *q) noexcept nogil:
    """The rate that makes the bandwidth arrive: what the path loses by itself comes on top."""
    return <double>q.bw * MARGIN / (1 - floor_rate(q))


cdef void set_pacing_rate(Congestion *c, Bbr *q) noexcept nogil:
    cdef uint64_t rate = <uint64_t>(pacing_gain(q) * to_fill(q))
    if q.bw > 0 and (q.full_bw or rate > c.pacing_rate):
        c.pacing_rate = max(rate, c.mss)


cdef void set_cwnd(Congestion *c, Bbr *q, const CongestionAck *a) noexcept nogil:
    cdef uint64_t most = target(c, q, UP_CWND_GAIN if q.state == UP else CWND_GAIN), cap = UINT64_MAX
    cdef uint64_t least = MIN_PIPE_PACKETS * c.mss
    most += extra_acked(q)
    if q.full_bw:
        c.w.cwnd = min(c.w.cwnd + a.bytes, most)
    elif c.w.cwnd < most or a.delivered < 10 * c.mss:
        c.w.cwnd += a.bytes
    if q.state == PROBE_RTT:
        cap = min(probe_rtt_window(c, q), with_headroom(c, q))
    elif q.state == CRUISE:
        cap = with_headroom(c, q)
    elif probing_bw(q):
        cap = q.inflight_hi
    cap = min(cap, q.inflight_lo)
    c.w.cwnd = max(min(c.w.cwnd, cap), least)


# --- the controller

cdef void bbr_init(Congestion *c) noexcept nogil:
    cdef Bbr *q = model(c)
    memset(c.model, 0, sizeof(c.model))
    q.min_rtt = q.probe_rtt_min = q.round_rtt = UINT64_MAX
    q.inflight_hi = UINT64_MAX
    q.up_count = UINT64_MAX
    forget_lower_bounds(q)
    c.pacing_rate = 0


cdef void bbr_on_ack(Congestion *c, const CongestionAck *a) noexcept nogil:
    cdef Bbr *q = model(c)
    cdef bint stale
    if q.probe_rtt_min == UINT64_MAX:
        q.min_rtt = q.probe_rtt_min = a.min_rtt
        q.min_rtt_at = q.probe_rtt_min_at = q.extra_since = a.now
    stale = a.now - q.probe_rtt_min_at > PROBE_RTT_INTERVAL
    note_round(q, a)
    update_max_bw(q, a)
    if q.loss_round_start:
        end_loss_round(c, q)
    update_aggregation(c, q, a)
    check_full_bw(q, a)
    check_startup(c, q, a)
    update_cycle(c, q, a)
    update_min_rtt(q, a)
    check_probe_rtt(c, q, a, stale)
    if q.loss_round_start:
        q.bw_latest = a.rate
        q.inflight_latest = a.sampled
    q.bw = min(q.max_bw, q.bw_lo)
    set_pacing_rate(c, q)
    set_cwnd(c, q, a)


cdef void bbr_on_packet_lost(Congestion *c, const CongestionLoss *l) noexcept nogil:
    cdef Bbr *q = model(c)
    q.round_lost += l.bytes
    q.round_losses += 1
    if q.probing_samples and too_much_loss(c, q, l.lost_since, l.tx_in_flight):
        lower_inflight_hi(c, q, l.tx_in_flight, l.app_limited)
        if q.state == UP:
            q.state = DOWN                  # the ACK that comes with the loss does the rest
            q.ack_phase = ACKS_STOPPING
            q.cycle_at = l.now
            q.rounds_since_probe = 0


cdef void bbr_on_loss(Congestion *c, uint64_t now) noexcept nogil:
    cdef Bbr *q = model(c)
    q.undo_bw_lo, q.undo_lo, q.undo_hi = q.bw_lo, q.inflight_lo, q.inflight_hi


cdef void bbr_on_spurious(Congestion *c, uint32_t packets) noexcept nogil:
    """What followed from the last congestion event is taken back."""
    cdef Bbr *q = model(c)
    q.round_lost -= min(q.round_lost, packets * c.mss)
    q.bw_lo = max(q.bw_lo, q.undo_bw_lo)
    q.inflight_lo = max(q.inflight_lo, q.undo_lo)
    q.inflight_hi = max(q.inflight_hi, q.undo_hi)
    if q.startup_lossy:
        q.startup_lossy = q.full_bw = False
        forget_full_bw(q)
        q.state = STARTUP


cdef void bbr_on_persistent(Congestion *c) noexcept nogil:
    """The window restarts; set_cwnd() lets it grow back to what the model says."""
    c.w.cwnd = MIN_PIPE_PACKETS * c.mss


cdef void bbr_on_restart(Congestion *c, uint64_t now) noexcept nogil:
    cdef Bbr *q = model(c)
    q.idle_restart = True
    q.extra_since = now
    q.extra_delivered = 0
    if probing_bw(q) and q.bw > 0:
        c.pacing_rate = max(<uint64_t>to_fill(q), c.mss)


cdef congestion_ops OPS
memset(&OPS, 0, sizeof(OPS))
OPS.model = True
OPS.init = bbr_init
OPS.on_ack = bbr_on_ack
OPS.on_loss = bbr_on_loss
OPS.on_persistent = bbr_on_persistent
OPS.on_packet_lost = bbr_on_packet_lost
OPS.on_restart = bbr_on_restart
OPS.on_spurious = bbr_on_spurious
if sizeof(Bbr) > MODEL_WORDS * sizeof(uint64_t):
    raise ImportError(f"the state of bbr has {sizeof(Bbr)} bytes")
congestion_fill(&OPS, b"bbr")
