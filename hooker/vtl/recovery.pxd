# Sent packets, RTT, loss detection and the probe timeout: RFC 9002.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from hooker.vtl.blackhole cimport Hole
from hooker.vtl.ranges cimport Range


cdef enum:
    MAX_PACKETS = 1 << 18      # unresolved packets of one association
    MAX_PACKET_FRAMES = 256    # more fit into no datagram we build
    LEAST_RECORD = 16384       # bytes of the rings when they begin, at most
    LOST_MEMORY = 64           # recently lost packet numbers, to notice spurious losses


cdef struct SentFrame:         # enough to send it again, or to act on its acknowledgment
    uint64_t offset
    uint32_t id
    uint16_t len
    uint8_t type
    uint8_t flags


cdef enum sent_flag:
    SENT_LIMITED = 1 << 0      # the sender had nothing more to send
    SENT_ECT = 1 << 1          # with ECT(0)
    SENT_PROBE = 1 << 2        # of the path's size: its loss is no sign of congestion
    SENT_ORDERED = 1 << 3      # the peer takes it in its turn only, if it does so at all
    SENT_VAIN = 1 << 4         # it went again, and counts as in flight no more; it may still be acknowledged

cdef struct SentPacket:        # less than a cache line
    uint64_t sent_at           # ns
    uint64_t delivered         # bytes: Recovery.delivered when it left
    uint64_t delivered_at      # ns: when that was
    uint64_t first_sent_at     # ns: start of the span over which the send rate is measured
    uint64_t lost_bytes        # Recovery.lost_bytes when it left
    uint32_t size              # bytes
    uint32_t in_flight         # bytes, it included
    uint32_t frame0            # running counter into the frame ring
    uint16_t frames
    uint8_t outstanding        # ack-eliciting, neither acknowledged nor lost
    uint8_t flags              # sent_flag


cdef struct Recovery:
    SentPacket *packet         # ring; slot = packet number & (cap - 1)
    uint32_t cap
    SentFrame *frame           # ring; slot = counter & (frame_cap - 1)
    uint32_t frame_cap
    uint32_t frame_head
    uint32_t frame_tail
    uint64_t tail              # lowest packet number that may be outstanding
    uint64_t next_pn           # starts at 1
    uint64_t largest_acked     # 0: none
    uint64_t in_flight         # bytes
    uint32_t outstanding       # packets in flight
    uint32_t pto_count
    uint64_t last_eliciting    # ns
    uint64_t loss_time         # ns, 0: none
    uint64_t srtt, rttvar, min_rtt, latest_rtt   # ns
    bint has_rtt
    uint64_t peer_ack_delay    # ns
    uint64_t max_pto           # ns, cap of the backoff
    uint32_t threshold         # packets of reordering tolerated, RFC 9002 6.1.1
    uint32_t patience          # eighths of an RTT of reordering tolerated, RFC 9002 6.1.2
    bint lossy_round           # something was lost in it
    uint32_t calm              # rounds with losses and without spurious ones, since the tolerance last changed
    uint64_t sent, lost, spurious      # packets
    Hole hole
    # delivery rate (draft-ietf-ccwg-bbr 4.1)
    uint64_t delivered         # bytes acknowledged
    uint64_t delivered_at      # ns
    uint64_t first_sent_at     # ns
    uint64_t lost_bytes
    uint64_t limited_until     # `delivered` at which the sender is not limited by its application; 0: it is not
    uint64_t round_end         # `delivered` of the packet whose ACK starts the next round
    uint64_t lost_pn[LOST_MEMORY]


cdef struct AckResult:         # what one ACK, or one expiry of the loss timer, changed
    uint64_t acked_bytes
    uint32_t acked_ect         # packets that carried ECT(0)
    bint advanced              # the largest number acknowledged grew
    uint64_t lost_bytes
    uint32_t lost_packets
    uint64_t lost_ordered      # number of the first of them that was in an order; 0: none was
    uint32_t spurious          # losses taken back
    uint64_t newest_acked_at   # send time of the newest packet acknowledged
    uint64_t prior_delivered   # the rate sample of that packet: see CongestionAck
    uint64_t sampled, rate, tx_in_flight, lost_since
    bint app_limited, outran
    bint round_start
    uint64_t newest_lost_at
    uint64_t oldest_lost_at
    bint rtt_sample
    bint persistent            # RFC 9002 7.6
    uint32_t probe_acked, probe_lost   # bytes, of a probe of the path's size; 0: none


ctypedef void (*frame_fn)(void *ctx, const SentFrame *f) noexcept nogil

ctypedef void (*lost_fn)(void *ctx, const SentPacket *p) noexcept nogil

cdef struct Listener:          # who hears what becomes of packets and their frames
    frame_fn acked
    frame_fn lost
    frame_fn again             # it goes again, and may still be acknowledged …
    frame_fn forgotten         # … but was not
    lost_fn packet_lost
    void *ctx

cdef void recovery_init(Recovery *r) noexcept nogil
cdef void recovery_free(Recovery *r) noexcept nogil
cdef inline bint recovery_has_room(const Recovery *r) noexcept nogil:    # one more packet can be recorded
    return r.next_pn - r.tail < r.cap and r.frame_tail - r.frame_head + MAX_PACKET_FRAMES <= r.frame_cap

cdef inline uint64_t recovery_memory(const Recovery *r) noexcept nogil:  # bytes of the rings
    return r.cap * sizeof(SentPacket) + r.frame_cap * sizeof(SentFrame)

cdef bint recovery_room(Recovery *r) noexcept nogil     # the same; makes it if need be
cdef void recovery_add_frame(Recovery *r, uint8_t type, uint8_t flags, uint32_t id, uint64_t offset,
                             uint16_t len) noexcept nogil
cdef void recovery_sent(Recovery *r, uint32_t frame0, uint32_t size, bint eliciting,
                        uint8_t flags, uint64_t now) noexcept nogil
cdef int recovery_on_ack(Recovery *r, const Range *acked, uint32_t n, uint64_t ack_delay, uint64_t now,
                         const Listener *who, AckResult *out) noexcept nogil
cdef void recovery_detect_lost(Recovery *r, uint64_t now, const Listener *who, AckResult *out) noexcept nogil
# Packets below that number that are still on their way: nobody waits for them any more.
cdef void recovery_forget(Recovery *r, uint64_t below, frame_fn on_lost, void *ctx) noexcept nogil
# All that may be sent now has been sent.
cdef void recovery_limited(Recovery *r) noexcept nogil
cdef void recovery_requeue_oldest(Recovery *r, frame_fn on_lost, void *ctx) noexcept nogil   # for a probe
cdef void recovery_requeue_all(Recovery *r, frame_fn on_lost, void *ctx) noexcept nogil
# The ordered packets from `first` on go again; those below `arrived` count as lost, at least one of all.
cdef void recovery_rewind(Recovery *r, uint64_t first, uint64_t arrived, const Listener *who,
                          AckResult *out) noexcept nogil
cdef void recovery_rtt(Recovery *r, uint64_t latest, uint64_t ack_delay) noexcept nogil
cdef uint64_t recovery_pto(const Recovery *r) noexcept nogil        # ns, without backoff
cdef uint64_t recovery_deadline(const Recovery *r) noexcept nogil   # loss timer or PTO; UINT64_MAX: none
